"""The `litellm` package, unmodified, as its users reach an OpenAI-compatible server."""

import os

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # else the import asks the network for prices

import litellm  # noqa: E402
import pytest  # noqa: E402

from tests.cluster import cluster  # noqa: E402

KEY = "sk-of-a-test"
QUESTION = [{"role": "user", "content": "hello"}]


@pytest.fixture(scope="module", name="base")
def make_base(tmp_path_factory):
    with cluster.running(tmp_path_factory.mktemp("litellm"), workers=1,
                         router_options=("--api-key", KEY),
                         worker_options=("--max-model-len", "256")) as one:
        yield {"api_base": f"http://{one.router.http_address}/v1", "api_key": KEY,
               "num_retries": 0, "max_retries": 0}


def test_chat(base):
    answer = litellm.completion(model=f"openai/{cluster.NAME}", messages=QUESTION, max_tokens=6,
                                seed=3, **base)
    assert answer.choices[0].finish_reason in ("length", "stop")
    assert 0 < answer.usage.completion_tokens <= 6


def test_chat_stream(base):
    chunks = list(litellm.completion(model=f"openai/{cluster.NAME}", messages=QUESTION,
                                     max_tokens=12, stream=True, seed=3,
                                     stream_options={"include_usage": True}, **base))
    whole = litellm.stream_chunk_builder(chunks)
    plain = litellm.completion(model=f"openai/{cluster.NAME}", messages=QUESTION, max_tokens=12,
                               seed=3, **base)
    assert whole.choices[0].message.content == plain.choices[0].message.content
    assert whole.usage.completion_tokens == plain.usage.completion_tokens


def test_text_completion(base):
    answer = litellm.text_completion(model=f"text-completion-openai/{cluster.NAME}",
                                     prompt="abc", max_tokens=5, temperature=0, **base)
    assert answer.usage.completion_tokens <= 5
    assert answer.choices[0].finish_reason in ("length", "stop")


def test_errors_are_typed(base):
    with pytest.raises(litellm.AuthenticationError):
        litellm.completion(model=f"openai/{cluster.NAME}", messages=QUESTION,
                           **{**base, "api_key": "wrong"})
    with pytest.raises(litellm.BadRequestError):
        litellm.completion(model=f"openai/{cluster.NAME}", messages=QUESTION, temperature=-1,
                           **base)
    with pytest.raises(litellm.ContextWindowExceededError):
        litellm.completion(model=f"openai/{cluster.NAME}",
                           messages=[{"role": "user", "content": "x" * 300}], **base)
    with pytest.raises(litellm.NotFoundError):
        litellm.completion(model="openai/another", messages=QUESTION, **base)
