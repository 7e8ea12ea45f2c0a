"""spin.v1.Inference through a client that we did not write (grpcio), held against the HTTP API: the
same question has the same answer at both doors."""

import json
import math
import os
import pathlib
import time

import grpc
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from tests.cluster import cluster

MODEL_LEN = 1000


def load():
    pool = descriptor_pool.DescriptorPool()
    for file in descriptor_pb2.FileDescriptorSet.FromString(
            pathlib.Path(os.environ["SPIN_DESCRIPTORS"]).read_bytes()).file:
        pool.Add(file)
    return {name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"spin.v1.{name}"))
            for kind in ("Tokenize", "Detokenize", "GetModel", "Inference")
            for name in (f"{kind}Request", f"{kind}Response")}


MESSAGES = load()


@pytest.fixture(scope="module")
def c(tmp_path_factory):
    with cluster.running(tmp_path_factory.mktemp("cluster"), workers=1,
                         worker_options=("--max-model-len", str(MODEL_LEN))) as one:
        yield one


def unary(c, kind, **fields):
    call = c.channel.unary_unary(
        f"/spin.v1.Inference/{kind}",
        request_serializer=MESSAGES[f"{kind}Request"].SerializeToString,
        response_deserializer=MESSAGES[f"{kind}Response"].FromString)
    return call(MESSAGES[f"{kind}Request"](**fields), timeout=20)


def generate(c, timeout=20, **fields):
    """All deltas of a call."""
    call = c.channel.unary_stream(
        "/spin.v1.Inference/Generate",
        request_serializer=MESSAGES["InferenceRequest"].SerializeToString,
        response_deserializer=MESSAGES["InferenceResponse"].FromString)
    request = MESSAGES["InferenceRequest"](**fields)
    return [delta for message in call(request, timeout=timeout) for delta in message.deltas]


def post(c, path, **body):
    status, text = cluster.http_request(c.router.http_address, "POST", path, json.dumps(body),
                                        [("Content-Type", "application/json")])
    assert status == 200, text
    return json.loads(text)


def text_of(deltas, index):
    return "".join(delta.text for delta in deltas if delta.index == index)


def test_tokens(c):
    text = "Ein Café kostet 3 €, <|im_end|> sagt er.\n"
    ours = unary(c, "Tokenize", prompt={"text": text})
    http = post(c, "/tokenize", prompt=text)
    assert list(ours.tokens) == http["tokens"]
    assert ours.max_model_len == http["max_model_len"] == MODEL_LEN
    back = unary(c, "Detokenize", tokens=ours.tokens)
    assert back.text == post(c, "/detokenize", tokens=http["tokens"])["prompt"] == text
    messages = [{"role": "user", "content": "Hi"}]
    chat = unary(c, "Tokenize", prompt={"messages": messages})
    assert list(chat.tokens) == post(c, "/tokenize", messages=messages)["tokens"]


def test_the_model(c):
    model = unary(c, "GetModel")
    assert (model.model.name, model.chat_format, model.workers) == (cluster.NAME, "chatml", 1)
    assert model.model.max_model_len == MODEL_LEN and model.model.vocab > 256
    with pytest.raises(grpc.RpcError) as refused:
        unary(c, "GetModel", model="other")
    assert refused.value.code() == grpc.StatusCode.NOT_FOUND


def test_several_answers(c):
    sampling = {"temperature": 1.0, "seed": 11, "max_tokens": 12, "ignore_eos": True}
    deltas = generate(c, prompt={"text": "Once"}, sampling=sampling, n=3)
    http = post(c, "/v1/completions", model=cluster.NAME, prompt="Once", temperature=1.0, seed=11,
                max_tokens=12, ignore_eos=True, n=3)
    assert [text_of(deltas, i) for i in range(3)] == [one["text"] for one in http["choices"]]
    assert len({text_of(deltas, i) for i in range(3)}) == 3
    endings = [delta.ending for delta in deltas if delta.HasField("ending")]
    assert len(endings) == 3
    assert all(one.usage.prompt_tokens == 4 and one.usage.completion_tokens == 12
               for one in endings)


def test_scoring(c):
    text = "How likely is this?"
    deltas = generate(c, prompt={"text": text}, score_only=True,
                      sampling={"prompt_logprobs": True, "top_logprobs": 2})
    prompt = [token for delta in deltas for token in delta.prompt]
    assert [token.token for token in prompt] == list(text.encode())
    assert math.isnan(prompt[0].logprob) and all(len(token.top) == 2 for token in prompt[1:])
    http = post(c, "/v1/completions", model=cluster.NAME, prompt=text, echo=True, logprobs=2,
                max_tokens=0)
    assert [token.logprob for token in prompt[1:]] == pytest.approx(
        http["choices"][0]["logprobs"]["token_logprobs"][1:])
    assert text_of(deltas, 0) == ""


def test_stop_and_logprobs(c):
    sampling = {"max_tokens": 30, "ignore_eos": True, "logprobs": True, "temperature": 1.0,
                "seed": 3}
    whole = generate(c, prompt={"text": "Go"}, sampling=sampling)
    tokens = [token for delta in whole for token in delta.tokens]
    assert len(tokens) == 30 and all(token.logprob <= 0 for token in tokens)
    text = text_of(whole, 0)
    stop = next(text[i] for i in range(4, len(text)) if text[i] not in text[:i]
                and text[i] != "\ufffd")
    cut = generate(c, prompt={"text": "Go"}, sampling=sampling, stop=["never", stop])
    assert text_of(cut, 0) == text[:text.index(stop)]
    assert cut[-1].ending.stop_string == stop and cut[-1].ending.stop_token == -1
    kept = [token.token for delta in cut for token in delta.tokens]
    assert kept == [token.token for token in tokens][:len(kept)] and 0 < len(kept) < 30


def test_a_deadline_frees_the_worker(c):
    with pytest.raises(grpc.RpcError) as passed:
        generate(c, timeout=0.02, prompt={"text": "Go"},
                 sampling={"max_tokens": MODEL_LEN - 2, "ignore_eos": True})
    assert passed.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    began = time.monotonic()
    c.wait_idle()
    assert time.monotonic() - began < 5
