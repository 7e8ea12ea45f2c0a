"""The `openai` package, unmodified, against a router and a worker with the demo model.

What it parses into its own types is what counts; nothing of ours reads the replies.
"""

import asyncio
import math
import os
import time

import openai
import pytest

from tests.cluster import cluster

KEY = "sk-of-a-test"
GREEDY = {"temperature": 0}
QUESTION = [{"role": "user", "content": "Count from one to ten."}]
LIMIT = 1024  # --max-model-len


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    with cluster.running(tmp_path_factory.mktemp("openai"), workers=1,
                         model=os.environ["SPIN_DEMO_MODEL"], router_options=("--api-key", KEY),
                         worker_options=("--max-model-len", str(LIMIT), "--kv-hbm-bytes",
                                         "256MiB")) as one:
        yield one
        assert one.router.alive() and one.workers[0].alive(), one.logs()
        assert one.wait_idle() >= 0  # nothing is left of all of this


@pytest.fixture(scope="module", name="client")
def make_client(running):
    with openai.OpenAI(base_url=f"http://{running.router.http_address}/v1", api_key=KEY,
                       max_retries=0, timeout=60) as one:
        yield one


def complete(client, prompt, **fields):
    return client.completions.create(model=cluster.NAME, prompt=prompt, **fields)


def chat(client, **fields):
    return client.chat.completions.create(model=cluster.NAME, messages=QUESTION, **fields)


# --- chat ---


def test_chat(client):
    answer = chat(client, max_tokens=12, **GREEDY)
    assert answer.object == "chat.completion" and answer.id.startswith("chatcmpl-")
    assert answer.model == cluster.NAME and abs(answer.created - time.time()) < 60
    choice = answer.choices[0]
    assert choice.message.role == "assistant" and choice.message.content
    assert choice.finish_reason == "length" and choice.index == 0
    assert answer.usage.completion_tokens == 12
    assert answer.usage.prompt_tokens > 10
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + 12
    assert answer.usage.prompt_tokens_details.cached_tokens >= 0


def test_chat_streams_the_same(client):
    whole = chat(client, max_tokens=20, **GREEDY)
    chunks = list(chat(client, max_tokens=20, stream=True,
                       stream_options={"include_usage": True}, **GREEDY))
    assert chunks[0].choices[0].delta.role == "assistant"
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == whole.choices[0].message.content
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == \
        whole.choices[0].finish_reason
    assert len({c.id for c in chunks}) == 1
    assert not chunks[-1].choices
    assert chunks[-1].usage == whole.usage
    assert all(c.usage is None for c in chunks[:-1])
    assert len(chunks) > 10  # it came as it was made


def test_content_parts_and_roles(client):
    plain = client.chat.completions.create(
        model=cluster.NAME, max_tokens=5, temperature=0,
        messages=[{"role": "system", "content": "Be short."}, {"role": "user", "content": "Hi you"}])
    parts = client.chat.completions.create(
        model=cluster.NAME, max_completion_tokens=5, temperature=0,
        messages=[{"role": "developer", "content": "Be short."},
                  {"role": "user", "name": "x", "content": [{"type": "text", "text": "Hi"},
                                                            {"type": "text", "text": " you"}]}])
    assert plain.choices[0].message.content == parts.choices[0].message.content
    assert plain.usage.prompt_tokens == parts.usage.prompt_tokens


def test_chat_goes_on_until_it_ends(client):
    """Without max_tokens there is room for what fits, and the end token ends it."""
    answer = client.chat.completions.create(
        model=cluster.NAME, temperature=0, logit_bias={"2": 100},  # the end of a turn
        messages=QUESTION)
    assert answer.choices[0].finish_reason == "stop"
    assert answer.choices[0].message.content == ""
    answer = client.chat.completions.create(
        model=cluster.NAME, temperature=0, messages=[{"role": "user", "content": "word " * 900}],
        extra_body={"ignore_eos": True})
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage.total_tokens == LIMIT


def test_chat_logprobs(client):
    for stream in (False, True):
        got = chat(client, max_tokens=6, logprobs=True, top_logprobs=3, stream=stream, **GREEDY)
        choices = [c.choices[0] for c in got] if stream else got.choices
        text = "".join((c.delta if stream else c.message).content or "" for c in choices)
        content = [t for c in choices if c.logprobs for t in c.logprobs.content]
        assert len(content) == 6
        assert b"".join(bytes(t.bytes) for t in content).decode() == text
        for token in content:
            assert len(token.top_logprobs) == 3
            assert token.top_logprobs[0].token == token.token  # greedy
            assert token.logprob == token.top_logprobs[0].logprob <= 0
            assert sum(math.exp(t.logprob) for t in token.top_logprobs) <= 1.0001


# --- completions ---


def test_completion(client):
    answer = complete(client, "The capital of France is", max_tokens=4, **GREEDY)
    assert answer.object == "text_completion" and answer.id.startswith("cmpl-")
    assert answer.choices[0].text.startswith(" Paris")
    assert answer.usage.completion_tokens == 4
    assert complete(client, "One two").usage.completion_tokens <= 16  # OpenAI's default


def test_completion_streams_the_same(client):
    whole = complete(client, "Once upon a time", max_tokens=24, **GREEDY)
    chunks = list(complete(client, "Once upon a time", max_tokens=24, stream=True, **GREEDY))
    assert "".join(c.choices[0].text for c in chunks) == whole.choices[0].text
    assert chunks[-1].choices[0].finish_reason == whole.choices[0].finish_reason == "length"
    assert all(c.usage is None for c in chunks)


def test_usage_as_it_goes(client):
    """An option of vLLM that load generators send."""
    chunks = list(complete(client, ["One", "Two three"], max_tokens=6, stream=True,
                           extra_body={"ignore_eos": True, "stream_options": {
                               "include_usage": True, "continuous_usage_stats": True}}))
    for index in (0, 1):
        counts = [c.usage.completion_tokens for c in chunks if c.choices
                  and c.choices[0].index == index]
        assert counts == sorted(counts) and 0 < counts[0] <= counts[-1] == 6
    assert chunks[-1].usage.completion_tokens == 12 and not chunks[-1].choices


def test_batches(client):
    prompts = ["The sky is", "Two plus two is", "Water is"]
    alone = [complete(client, p, max_tokens=5, **GREEDY).choices[0].text for p in prompts]
    together = complete(client, prompts, max_tokens=5, **GREEDY)
    assert [c.index for c in together.choices] == [0, 1, 2]
    assert [c.text for c in together.choices] == alone
    assert together.usage.completion_tokens == 15


def test_n(client):
    fields = {"n": 2, "seed": 7, "max_tokens": 12, "temperature": 1.0}
    answer = complete(client, "My favourite", **fields)
    first, second = (c.text for c in answer.choices)
    assert first != second
    # Answer i is what seed + i alone gives; the prompt counts once.
    assert second == complete(client, "My favourite", seed=8, max_tokens=12).choices[0].text
    assert answer.usage.completion_tokens == 24
    assert answer.usage.prompt_tokens == complete(client, "My favourite").usage.prompt_tokens
    texts = ["", ""]
    for chunk in complete(client, "My favourite", stream=True, **fields):
        texts[chunk.choices[0].index] += chunk.choices[0].text
    assert texts == [first, second]


def test_seed(client):
    def draw(**fields):
        return complete(client, "Tell me", max_tokens=16, **fields).choices[0].text

    assert draw(seed=11) == draw(seed=11)
    assert draw(seed=11) != draw(seed=12)
    assert draw() != draw()  # without a seed each has its own


def test_stop(client):
    whole = complete(client, "Once upon a time", max_tokens=40, **GREEDY).choices[0].text
    # Inside a word, over the end of one token and the beginning of the next.
    middle = whole.index(" ", 20)
    stop = whole[middle - 2:middle + 3]
    before = whole[:whole.index(stop)]
    for stream in (False, True):
        got = complete(client, "Once upon a time", max_tokens=40, stop=[stop, "never to be seen"],
                       stream=stream, **GREEDY)
        choices = [c.choices[0] for c in got] if stream else got.choices
        assert "".join(c.text for c in choices) == before
        assert choices[-1].finish_reason == "stop"
    one = complete(client, "Once upon a time", max_tokens=40, stop=stop, **GREEDY)
    assert one.choices[0].text == before
    assert complete(client, "Once upon a time", max_tokens=40, stop=whole[0],
                    **GREEDY).choices[0].text == ""


def test_stop_token_ids(client):
    listed = complete(client, "Once upon a time", max_tokens=8, logprobs=0, **GREEDY).choices[0]
    with_id = client.post(  # a token's id is known from /tokenize, which is not under /v1
        f"{str(client.base_url).removesuffix('/v1/')}/tokenize", cast_to=object,
        body={"prompt": listed.logprobs.tokens[3], "add_special_tokens": False})
    got = complete(client, "Once upon a time", max_tokens=8,
                   extra_body={"stop_token_ids": with_id["tokens"]}, **GREEDY).choices[0]
    place = listed.logprobs.tokens.index(listed.logprobs.tokens[3])
    assert got.text == "".join(listed.logprobs.tokens[:place]) and got.finish_reason == "stop"


def test_completion_logprobs(client):
    choice = complete(client, "The sky is", max_tokens=5, logprobs=2, **GREEDY).choices[0]
    got = choice.logprobs
    assert "".join(got.tokens) == choice.text
    assert len(got.token_logprobs) == len(got.top_logprobs) == len(got.text_offset) == 5
    for token, logprob, top, offset in zip(got.tokens, got.token_logprobs, got.top_logprobs,
                                           got.text_offset):
        assert len(top) == 2 and top[token] == logprob == max(top.values()) <= 0
        assert choice.text[offset:].startswith(token)


def test_penalties_and_bias(client):
    def text(**fields):
        return complete(client, "la la la la la la", max_tokens=8, **GREEDY, **fields).choices[0].text

    plain = text()
    assert text(frequency_penalty=2.0) != plain
    assert text(presence_penalty=2.0, extra_body={"repetition_penalty": 2.0}) != plain
    assert text(extra_body={"top_k": 1, "min_p": 0.5, "min_tokens": 8}) == plain


# --- the rest of the package ---


def test_models(client):
    models = list(client.models.list())
    assert [m.id for m in models] == [cluster.NAME]
    assert models[0].model_extra["max_model_len"] == LIMIT
    assert client.models.retrieve(cluster.NAME).id == cluster.NAME
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("another")


def test_many_at_once(running):
    async def ask(client, number):
        stream = await client.completions.create(
            model=cluster.NAME, prompt=f"Number {number}", max_tokens=8, stream=True, **GREEDY)
        return [c async for c in stream][-1].choices[0].finish_reason

    async def all_of_them():
        async with openai.AsyncOpenAI(base_url=f"http://{running.router.http_address}/v1",
                                      api_key=KEY, max_retries=0) as client:
            return await asyncio.gather(*(ask(client, i) for i in range(16)))

    assert set(asyncio.run(all_of_them())) <= {"length", "stop"}


def test_leaving_a_stream_frees_it(running, client):
    with complete(client, "A very long story:", max_tokens=900, stream=True,
                  extra_body={"ignore_eos": True}) as stream:
        next(iter(stream))
    assert running.wait_idle(5) < 2
    assert running.metric("spin_router_generations_ended_total", reason="cancelled") >= 1
