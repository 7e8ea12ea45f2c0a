"""texts: strings that tokenizers disagree about.

Why        Every block of Unicode, and everything that has made two tokenizers differ before: white space,
           contractions, digits, line ends, emoji sequences, combining marks, texts of special tokens.
Unicode    Code points unassigned in Unicode 14 are left out: the tables of PCRE2, of utf8proc and of the
           reference are of different versions.
"""

import mmap
import random
import struct
import sys
import unicodedata

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<repo_name>", "<|im_start|", "im_end|>"]
CONTRACTIONS = ["'s", "'t", "'re", "'ve", "'m", "'ll", "'d"]
# White_Space, and what is near it: zero width, line separators, the Mongolian vowel separator.
SPACES = [" ", "  ", "\t", "\n", "\r", "\r\n", "\n\n", "\v", "\f", "\x1c", "\x1f", "\x85", "\xa0",
          "\u1680", "\u180e", "\u2000", "\u2002", "\u200a", "\u200b", "\u2028", "\u2029", "\u202f",
          "\u205f", "\u2060", "\u3000", "\ufeff"]
EMOJI = ["👍🏽", "👩‍👩‍👧‍👦", "🏳️‍🌈", "🇩🇪🇫🇷", "❤️", "1️⃣", "🧑🏿‍🚀", "🏴󠁧󠁢󠁥󠁮󠁧󠁿", "☺︎", "🤷🏻‍♀️"]
WORDS = ["Hello", "world", "naïve", "Straße", "ﬁn", "İstanbul", "ǅ", "ʼn", "Ω", "привет", "мир", "你好",
         "世界", "こんにちは", "가나다", "안녕", "नमस्ते", "สวัสดี", "مرحبا", "שלום", "ΑΒΓ", "K", "ſ", "'ſ",
         "'S", "'LL", "'Re", "12", "345", "6789", "½", "Ⅷ", "٣٤", "௧", "²", "x²y", "snake_case",
         "CamelCase", "e\u0301", "a\u0323\u0307", "\u0307\u0323", "q\u0307\u0323", "\u1100\u1161\u11a8",
         "각\u11a8", "\u0958", "\u2126", "\u212b", "ﬀ", "\u0344", "\U0001d15e", "=>", "!=", "...", "—", "“”"]
CODE = ["for (int i = 0; i < n; i++) {\n\tsum += a[i];\n}\n", "def f(x):\n    return x ** 2\r\n",
        "<div class=\"a\">\n  <p>&nbsp;</p>\n</div>", "SELECT * FROM t WHERE a='b';", "\\frac{1}{2}\n",
        "https://example.org/a?b=c&d=%20#e", "{\"key\": [1, 2.5e-3, null]}", "$ ls -la | grep x\n"]


def gguf_value(path, key):
    """A string, or an array of strings or of i32. The gguf package reads these too, in seconds."""
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        at = data.find(struct.pack("<Q", len(key)) + key.encode()) + 8 + len(key)

        def take(layout):
            nonlocal at
            (value,) = struct.unpack_from(layout, data, at)
            at += struct.calcsize(layout)
            return value

        def string():
            nonlocal at
            count = take("<Q")
            at += count
            return data[at - count:at].decode()
        kind = take("<I")
        if kind == 8:
            return string()
        assert kind == 9
        element, count = take("<I"), take("<Q")
        return [string() if element == 8 else take("<i") for _ in range(count)]


def assigned():
    """Every code point that UTF-8 can carry and Unicode 14 assigns; a sample of the private ones."""
    assert unicodedata.unidata_version.startswith("14."), unicodedata.unidata_version
    for point in range(sys.maxunicode + 1):
        category = unicodedata.category(chr(point))
        if category in ("Cn", "Cs") or (category == "Co" and point % 64):
            continue
        yield chr(point)


def of_every_block():
    """Neighbours run together, and each of them between letters, digits and spaces."""
    points = list(assigned())
    for begin in range(0, len(points), 32):
        group = points[begin:begin + 32]
        yield "".join(group)
        yield "".join(f"a{c} {c}1{c}'s{c}\n" for c in group[::4])
        yield " ".join(group[1::2]) + "  " + "\n".join(group[1::2])


def mixed(seed, count):
    """Pieces of all kinds in random order, with and without spaces between."""
    rng = random.Random(seed)
    pools = [WORDS, WORDS, SPACES, EMOJI, CONTRACTIONS, CODE]
    for _ in range(count):
        pieces = [rng.choice(rng.choice(pools)) for _ in range(rng.randint(1, 12))]
        yield rng.choice(["", "", " "]).join(pieces)


def white_space(seed, count):
    rng = random.Random(seed)
    for _ in range(count):
        run = "".join(rng.choice(SPACES) * rng.randint(1, 5) for _ in range(rng.randint(1, 6)))
        yield rng.choice(["", "a", "1", "."]) + run + rng.choice(["", "b", "2", ",", "'s"])


def with_special(seed, count):
    """Texts of special tokens, whole and cut, amid others."""
    rng = random.Random(seed)
    for _ in range(count):
        pieces = [rng.choice(SPECIAL if rng.random() < 0.4 else WORDS + SPACES)
                  for _ in range(rng.randint(1, 10))]
        yield "".join(pieces)


def long_pieces():
    """Pieces that are merged by heap and not by scanning."""
    rng = random.Random(7)
    for length in (47, 48, 49, 50, 63, 64, 200, 1000, 5000):
        yield "a" * length
        yield " " * length
        yield "\n" * length
        yield "=" * length
        yield "".join(rng.choice("abcdefghijklmnopqrstuvwxyz") for _ in range(length))
        yield "".join(rng.choice("的一是不了人我在有他") for _ in range(length))
        yield "ab" * length
        yield "e\u0301\u0323" * length
        yield "\u0315\u0300\u05ae\u0301" * length


def everything():
    texts = ["", *CODE, *SPACES, *EMOJI, *WORDS, *SPECIAL]
    texts += [a + b for a in WORDS for b in SPACES + CONTRACTIONS]
    texts += of_every_block()
    texts += mixed(1, 4000)
    texts += white_space(2, 1500)
    texts += with_special(3, 1500)
    texts += long_pieces()
    return texts
