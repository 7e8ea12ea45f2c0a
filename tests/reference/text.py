"""text: real text that every Debian machine carries, and its token ids for the demo model.

Why        The comparisons need natural text of known licence without fetching or committing a book.
Sources    licences  /usr/share/common-licenses (package base-files, essential): GPL-3, GFDL-1.3.
                     Everyone may copy and distribute verbatim copies.
           python    pydoc_data.topics of the running interpreter: the language reference as prose
                     and code, Python Software Foundation License 2.
Checked    A digest of what was read is printed and recorded with the results, so that a machine
           with other texts shows.
"""

import functools
import hashlib
import pathlib

LICENCES = pathlib.Path("/usr/share/common-licenses")
TOPICS = ("compound", "objects", "typesseq")  # long prose, over a thousand tokens each


def passages():
    """Name -> text, in a fixed order."""
    from pydoc_data import topics

    texts = {name: (LICENCES / name).read_text() for name in ("GPL-3", "GFDL-1.3")}
    return texts | {f"python:{name}": topics.topics[name] for name in TOPICS}


def digest(texts):
    joined = "\0".join(f"{name}\0{text}" for name, text in texts.items())
    return hashlib.sha256(joined.encode()).hexdigest()[:16]


@functools.cache
def demo_tokenizer(gguf_path):
    """The `tokenizers` package with the GGUF's own vocabulary and merges (pre-tokenizer smollm)."""
    import gguf
    import tokenizers
    from tokenizers import decoders, models, pre_tokenizers

    fields = gguf.GGUFReader(gguf_path).fields
    assert fields["tokenizer.ggml.pre"].contents() == "smollm"
    vocabulary = fields["tokenizer.ggml.tokens"].contents()
    merges = [tuple(m.split(" ")) for m in fields["tokenizer.ggml.merges"].contents()]
    tokenizer = tokenizers.Tokenizer(
        models.BPE(vocab={token: i for i, token in enumerate(vocabulary)}, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Digits(individual_digits=True),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    ])
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def prompts(gguf_path, lengths):
    """One prompt of each length, each from another place of another passage."""
    tokenizer = demo_tokenizer(gguf_path)
    ids = [tokenizer.encode(passage).ids for passage in passages().values()]
    out = []
    for index, length in enumerate(lengths):
        source = ids[index % len(ids)]
        begin = min(97 * index, len(source) - length)
        assert begin >= 0, (length, len(source))
        out.append(source[begin:begin + length])
    return out
