"""The tokenizer against the `tokenizers` package, fed with the demo GGUF's vocabulary and merges.

The package runs each family's pre-tokenizer and normalizer as the family's published tokenizer.json
defines them. Ours runs from a GGUF that names the family and from the package's own serialised
tokenizer.json; both must give the same ids for every string, and decode them to the text."""

import os
import random
import struct
import subprocess
import unicodedata

import gguf
import pytest
import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers

from tests.model.text import texts

LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|"
          r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
QWEN2 = LLAMA3.replace("{1,3}", "")
FAMILIES = {"gpt-2": None, "smollm": None, "llama-bpe": LLAMA3, "qwen2": QWEN2}
MODEL = os.environ["SPIN_MODEL"]
TOOL = os.environ["SPIN_TOKENIZE_TOOL"]
ADDED = ["<tool_call>", "<tool_call>x", "ool"]  # not special: found in either mode


class Vocabulary:
    def __init__(self):
        self.tokens = texts.gguf_value(MODEL, "tokenizer.ggml.tokens")
        self.types = texts.gguf_value(MODEL, "tokenizer.ggml.token_type")
        self.merges = texts.gguf_value(MODEL, "tokenizer.ggml.merges")
        assert len(self.tokens) == len(self.types) == 49152 and len(self.merges) == 48900

    def missing_bytes(self):
        """Bytes that no token stands for, by the package's spelling of them."""
        letters = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        have = set(self.tokens)
        spelled = {c.encode()[-1]: s for c in map(chr, range(128))
                   for ((s, _),) in [letters.pre_tokenize_str(c)]}
        # Lead and continuation bytes: each from a character that has it.
        for c in map(chr, [*range(0x80, 0x800), *range(0x800, 0xD800, 64),
                           *range(0xE000, 0x110000, 64)]):
            ((s, _),) = letters.pre_tokenize_str(c)
            spelled.update(zip(c.encode(), s))
        return {byte for byte, letter in spelled.items() if letter not in have}

    def special(self):
        return [t for t, kind in zip(self.tokens, self.types) if kind == gguf.TokenType.CONTROL]


@pytest.fixture(scope="module")
def vocabulary():
    return Vocabulary()


@pytest.fixture(scope="module")
def corpus():
    found = texts.everything()
    assert len(found) >= 20000
    return found


def reference(vocabulary, family):
    """The package's tokenizer for one family."""
    merges = [tuple(m.split(" ")) for m in vocabulary.merges]
    ids = {token: i for i, token in enumerate(vocabulary.tokens)}
    made = tokenizers.Tokenizer(models.BPE(ids, merges, ignore_merges=family == "llama-bpe"))
    if family == "gpt-2":
        made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    elif family == "smollm":
        made.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True),
             pre_tokenizers.ByteLevel(add_prefix_space=False)])
    else:
        made.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Split(tokenizers.Regex(FAMILIES[family]), "isolated"),
             pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    if family == "qwen2":
        made.normalizer = normalizers.NFC()
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens(
        [tokenizers.AddedToken(t, special=True, normalized=False) for t in vocabulary.special()])
    made.add_tokens([tokenizers.AddedToken(t, normalized=False) for t in ADDED])
    return made


def write_gguf(path, vocabulary, family):
    """A GGUF with a tokenizer and nothing else."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(family)
    writer.add_token_list(vocabulary.tokens + ADDED)
    writer.add_token_types(list(vocabulary.types) + [gguf.TokenType.USER_DEFINED] * len(ADDED))
    writer.add_token_merges(vocabulary.merges)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()


def reference_ids(made, corpus):
    """The package's ids. Its normalizer knows fewer combining marks than Unicode 14 has: where it differs
    from Python's, the package gets the text in Python's normal form."""
    if made.normalizer is not None:
        forms = [unicodedata.normalize("NFC", t) for t in corpus]
        differ = [i for i, t in enumerate(corpus) if made.normalizer.normalize_str(t) != forms[i]]
        assert len(differ) < 50, [corpus[i] for i in differ]
        assert not any(a in corpus[i] for i in differ for a in ADDED + texts.SPECIAL)
        corpus = list(corpus)
        for i in differ:
            corpus[i] = forms[i]
            assert made.normalizer.normalize_str(forms[i]) == forms[i]
    return [e.ids for e in made.encode_batch_fast(corpus)]


def ask(source, operation, payloads):
    """The tool's answers: lists of ids, or bytes."""
    size = 1 if operation in "es" else 4
    requests = b"".join(operation.encode() + struct.pack("<I", len(p) // size) + p for p in payloads)
    done = subprocess.run([TOOL, str(source)], input=requests, stdout=subprocess.PIPE, check=True)
    answers, at = [], done.stdout.index(b"\n") + 1
    for _ in payloads:
        (count,) = struct.unpack_from("<I", done.stdout, at)
        size = 4 if operation in "es" else 1
        body = done.stdout[at + 4:at + 4 + count * size]
        answers.append(list(struct.unpack(f"<{count}i", body)) if size == 4 else body)
        at += 4 + count * size
    assert at == len(done.stdout)
    return answers


def expect_equal(source, corpus, wanted, operation):
    got = ask(source, operation, [t.encode() for t in corpus])
    wrong = [(t, w, g) for t, w, g in zip(corpus, wanted, got) if w != g]
    assert not wrong, f"{len(wrong)} of {len(corpus)}; first: {wrong[0]!r}"


@pytest.fixture(scope="module", params=list(FAMILIES))
def family(request, vocabulary, corpus, tmp_path_factory):
    """(name, package's tokenizer, ids with special tokens parsed, files to open)."""
    made = reference(vocabulary, request.param)
    folder = tmp_path_factory.mktemp(request.param)
    write_gguf(folder / "model.gguf", vocabulary, request.param)
    made.save(str(folder / "tokenizer.json"))
    ids = reference_ids(made, corpus)
    return request.param, made, ids, [folder / "model.gguf", folder]


def test_ids_with_special_tokens(family, corpus):
    _, _, ids, sources = family
    for source in sources:
        expect_equal(source, corpus, ids, "s")


def test_ids_with_special_tokens_as_text(family):
    _, made, _, sources = family
    corpus = list(texts.with_special(4, 1500)) + list(texts.mixed(5, 500))
    made.encode_special_tokens = True
    ids = reference_ids(made, corpus)
    made.encode_special_tokens = False
    for source in sources:
        expect_equal(source, corpus, ids, "e")


def test_decode_gives_the_text_back(family, vocabulary, corpus):
    """Where every byte has a token: the demo vocabulary has none for some control bytes."""
    name, made, ids, sources = family
    form = (lambda t: unicodedata.normalize("NFC", t)) if name == "qwen2" else (lambda t: t)
    missing = vocabulary.missing_bytes()
    assert missing == {0x04, 0x06, 0x13, 0x14, 0x16, 0x1D, 0xF1, 0xF2}
    wanted = [form(t).encode() for t in corpus]
    whole = [i for i, t in enumerate(wanted) if missing.isdisjoint(t)]
    assert len(whole) > 0.9 * len(corpus)
    payloads = [struct.pack(f"<{len(ids[i])}i", *ids[i]) for i in whole]
    for source in sources:
        decoded = ask(source, "d", payloads)
        wrong = [(corpus[i], d) for i, d in zip(whole, decoded) if d != wanted[i]]
        assert not wrong, f"{len(wrong)}; first: {wrong[0]!r}"


def test_decode_equals_the_package_on_random_ids(family, vocabulary):
    """Any ids at all: halves of characters become the same replacement characters."""
    _, made, _, sources = family
    rng = random.Random(11)
    normal = [i for i, kind in enumerate(vocabulary.types) if kind == gguf.TokenType.NORMAL]
    lists = [[rng.choice(normal) for _ in range(rng.randint(0, 30))] for _ in range(2000)]
    lists += [[rng.choice(normal[:238]) for _ in range(rng.randint(0, 30))] for _ in range(2000)]
    wanted = [t.encode() for t in made.decode_batch(lists, skip_special_tokens=False)]
    got = ask(sources[0], "d", [struct.pack(f"<{len(i)}i", *i) for i in lists])
    assert got == wanted


def test_special_tokens_are_left_out_on_request(family, vocabulary):
    _, _, _, sources = family
    im_end = vocabulary.tokens.index("<|im_end|>")
    (hello,) = ask(sources[0], "e", [b"Hello"])
    payload = struct.pack(f"<{len(hello) + 1}i", *hello, im_end)
    assert ask(sources[0], "k", [payload]) == [b"Hello"]
    assert ask(sources[0], "d", [payload]) == [b"Hello<|im_end|>"]


def test_invalid_utf8_is_replaced_as_python_does(family):
    """Python's errors="replace" follows the same rule: one U+FFFD per maximal subpart."""
    _, made, _, sources = family
    rng = random.Random(13)
    leads = [0xC0, 0xC2, 0xDF, 0xE0, 0xE1, 0xED, 0xEF, 0xF0, 0xF1, 0xF4, 0xF5, 0xFF, 0x80, 0x9F, 0xA0,
             0xBF, 0x41, 0x20]
    raw = [bytes(rng.choice(leads) for _ in range(rng.randint(0, 12))) for _ in range(2000)]
    ids = [made.encode(t.decode("utf-8", errors="replace")).ids for t in raw]
    assert ask(sources[0], "s", raw) == ids


def test_the_demo_model_itself(vocabulary, corpus):
    """As it is published: no added tokens but its own."""
    made = reference(vocabulary, "smollm")
    some = corpus[::7]
    ids = reference_ids(made, some)
    unaffected = [i for i, t in enumerate(some) if not any(a in t for a in ADDED)]
    expect_equal(MODEL, [some[i] for i in unaffected], [ids[i] for i in unaffected], "s")
