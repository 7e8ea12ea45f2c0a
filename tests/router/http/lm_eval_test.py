"""Requests and parsing as lm-eval's `local-completions` has them: token-id prompts in batches, echo
with logprobs, and the rule that it documents for scores: of every choice, token_logprobs from the
context's length to the last but one are the continuation's; it is greedy when each equals the maximum
of its top_logprobs.

The oracle is the worker's own gRPC reply to the same prompt, read by Google's protobuf.
"""

import json
import math
import os
import urllib.request

import pytest

from tests.cluster import cluster

END = 2  # <|im_end|> of the demo model


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    with cluster.running(tmp_path_factory.mktemp("lm_eval"), workers=1,
                         model=os.environ["SPIN_DEMO_MODEL"],
                         worker_options=("--max-model-len", "512", "--kv-hbm-bytes",
                                         "128MiB")) as one:
        yield one


def ask(running, path="/v1/completions", **fields):
    request = urllib.request.Request(f"http://{running.router.http_address}{path}",
                                     json.dumps(fields).encode(),
                                     {"Content-Type": "application/json"})
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(request, timeout=60) as response:
        return json.load(response)


def encode(running, text):
    return ask(running, "/tokenize", prompt=text, add_special_tokens=False)["tokens"]


def score(running, prompts, context_lengths, **fields):
    """(sum of log probabilities, greedy) of every continuation."""
    answer = ask(running, model=cluster.NAME, prompt=prompts, temperature=0, logprobs=1, seed=1234,
                 echo=True, **{"max_tokens": 1, **fields})
    results = []
    choices = sorted(answer["choices"], key=lambda choice: choice["index"])
    for choice, context in zip(choices, context_lengths, strict=True):
        logprobs = choice["logprobs"]["token_logprobs"][context:-1]
        tops = choice["logprobs"]["top_logprobs"][context:-1]
        greedy = all(one == max(top.values()) for one, top in zip(logprobs, tops, strict=True))
        results.append((sum(logprobs), greedy))
    return results


def worker_logprobs(running, tokens):
    """Of every prompt token but the first, from the worker itself."""
    messages = cluster.MESSAGES
    call = running.workers[0].channel.unary_stream(
        "/spin.v1.Worker/Generate",
        request_serializer=messages["GenerateRequest"].SerializeToString,
        response_deserializer=messages["GenerateResponse"].FromString)
    request = messages["GenerateRequest"](
        request_id="oracle", prompt_tokens=tokens, sampling={"prompt_logprobs": True})
    prompt = [token for message in call(request, timeout=30) for token in message.prompt]
    assert [token.token for token in prompt] == tokens and math.isnan(prompt[0].logprob)
    return [token.logprob for token in prompt[1:]]


def test_scores(running):
    pairs = [("The capital of France is", " Paris"), ("The capital of France is", " a banana split"),
             ("Two plus two makes", " four, of course."), ("Once upon a", " time")]
    encoded = [(encode(running, a), encode(running, b)) for a, b in pairs]
    prompts = [a + b for a, b in encoded]
    lengths = [len(a) for a, _ in encoded]
    together = score(running, prompts, lengths)
    for (total, greedy), prompt, length in zip(together, prompts, lengths):
        expected = sum(worker_logprobs(running, prompt)[length - 1:])
        assert total == pytest.approx(expected, abs=1e-5)
        assert [(total, greedy)] == score(running, [prompt], [length])  # alone as together
    assert together[0][0] > together[1][0]  # it prefers the truth
    assert together[3][1] and not together[1][1]


def test_end_token_keeps_the_places(running):
    """The generated token that is cut off may be the end token, which is not text."""
    prompt = encode(running, "The capital of France is Paris")
    plain = score(running, [prompt], [3])
    assert plain == score(running, [prompt], [3], logit_bias={str(END): 100})
    choice = ask(running, prompt=[prompt], echo=True, logprobs=1, max_tokens=1,
                 logit_bias={str(END): 100})["choices"][0]
    assert choice["finish_reason"] == "stop"
    assert len(choice["logprobs"]["tokens"]) == len(prompt) + 1
    assert choice["logprobs"]["token_logprobs"][-1] is None


def test_no_token_at_all(running):
    """max_tokens 0: the prompt's own and nothing more."""
    prompt = encode(running, "It was the best of times")
    answer = ask(running, prompt=prompt, echo=True, logprobs=3, max_tokens=0)
    choice = answer["choices"][0]
    assert choice["text"] == "It was the best of times"
    logprobs = choice["logprobs"]
    assert "".join(logprobs["tokens"]) == choice["text"]
    assert logprobs["token_logprobs"][0] is None and logprobs["top_logprobs"][0] is None
    assert logprobs["token_logprobs"][1:] == pytest.approx(worker_logprobs(running, prompt),
                                                           abs=1e-5)
    assert all(3 <= len(top) <= 4 for top in logprobs["top_logprobs"][1:])
    assert [choice["text"][a:b] for a, b in zip(logprobs["text_offset"],
                                                logprobs["text_offset"][1:] + [None])] == \
        logprobs["tokens"]
    assert answer["usage"] == {"prompt_tokens": len(prompt), "completion_tokens": 0,
                               "total_tokens": len(prompt),
                               "prompt_tokens_details": {"cached_tokens": 0}}


def test_echo_of_texts(running):
    answer = ask(running, prompt=["The sky is", "Grass is"], echo=True, max_tokens=3, temperature=0)
    plain = ask(running, prompt=["The sky is", "Grass is"], max_tokens=3, temperature=0)
    for prompt, one, other in zip(["The sky is", "Grass is"], answer["choices"], plain["choices"]):
        assert one["text"] == prompt + other["text"] and one["logprobs"] is None
    only = ask(running, prompt="The sky is", echo=True, max_tokens=0)
    assert only["choices"][0]["text"] == "The sky is"


def test_generate_until(running):
    """The other kind of request: greedy text up to a stop string."""
    prompt = encode(running, "Question: How many legs has a dog?\nAnswer:")
    answer = ask(running, model=cluster.NAME, prompt=[prompt], max_tokens=24, temperature=0,
                 stop=["\n", "<|im_end|>"], seed=1234)
    assert "\n" not in answer["choices"][0]["text"]
    assert answer["choices"][0]["finish_reason"] in ("stop", "length")
