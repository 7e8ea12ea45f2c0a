"""Tokenizer and chat formats against published vocabularies and the models' own templates.

llama.cpp's source, which the other comparisons build, carries the vocabularies of GPT-2, Llama 3 and
Qwen2 with texts and their ids, and the chat templates as their makers publish them. They are read from
the cache; none is in this tree."""

import os
import pathlib
import struct

import pytest

from tests.model.text import chat_golden_test as golden
from tests.model.text import texts
from tests.model.text import tokenizer_equality_test as equality

MISSING = os.environ.get("SPIN_PEER_MISSING", "")
MODELS = pathlib.Path(os.environ["SPIN_PEER_MODELS"])
SEPARATOR = "\n__ggml_vocab_test__\n"
VOCABULARIES = {"gpt-2": 50257, "llama-bpe": 128256, "qwen2": 151936}
TEMPLATES = {
    "Qwen-Qwen2.5-7B-Instruct": "qwen2.5",
    "Qwen-Qwen3-0.6B": "qwen3",
    "meta-llama-Llama-3.1-8B-Instruct": "llama3.1",
    "meta-llama-Llama-3.3-70B-Instruct": "llama3.1",
}

pytestmark = pytest.mark.skipif(MISSING != "", reason=MISSING)


def vocabulary_file(name):
    return MODELS / f"ggml-vocab-{name}.gguf"


class Published:
    """What equality.reference needs of a vocabulary."""

    def __init__(self, name):
        path = str(vocabulary_file(name))
        self.tokens = texts.gguf_value(path, "tokenizer.ggml.tokens")
        self.types = texts.gguf_value(path, "tokenizer.ggml.token_type")
        self.merges = texts.gguf_value(path, "tokenizer.ggml.merges")
        assert len(self.tokens) == VOCABULARIES[name]

    def special(self):
        return [t for t, kind in zip(self.tokens, self.types) if kind == 3]


@pytest.mark.parametrize("name", VOCABULARIES)
def test_ids_that_come_with_the_vocabulary(name):
    path = vocabulary_file(name)
    with open(f"{path}.inp", newline="", encoding="utf-8") as file:
        inputs = file.read().split(SEPARATOR)
    lines = pathlib.Path(f"{path}.out").read_text().split("\n")
    wanted = [[int(word) for word in line.split()] for line in lines[:len(inputs)]]
    assert len(inputs) >= 40
    assert equality.ask(path, "e", [t.encode() for t in inputs]) == wanted


@pytest.mark.parametrize("name", VOCABULARIES)
def test_ids_of_every_block_with_the_vocabulary(name):
    corpus = texts.everything()
    made = equality.reference(Published(name), name)
    path = vocabulary_file(name)
    special = [t for t in corpus if any(s in t for s in texts.SPECIAL + equality.ADDED)]
    plain = [t for t in corpus if t not in set(special)]
    assert len(plain) >= 18000
    wanted = equality.reference_ids(made, plain)
    equality.expect_equal(path, plain, wanted, "s")
    decoded = equality.ask(path, "d", [struct.pack(f"<{len(i)}i", *i) for i in wanted])
    assert decoded == [t.encode() for t in made.decode_batch(wanted, skip_special_tokens=False)]


@pytest.mark.parametrize("file", TEMPLATES)
@pytest.mark.parametrize("generation", [False, True])
def test_text_equals_the_published_template(file, generation):
    template = (MODELS / "templates" / f"{file}.jinja").read_text()
    name = TEMPLATES[file]
    bos = "<|begin_of_text|>"
    conversations = golden.conversations_of(name)
    answers = golden.ask([(template, "", bos, "", generation, c) for c in conversations])
    for conversation, (found, text, _, error) in zip(conversations, answers):
        assert not error and found == name
        assert text == golden.rendered(template, conversation, bos_token=bos,
                                       add_generation_prompt=generation), conversation
