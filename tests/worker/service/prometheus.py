"""A checker of Prometheus' text format 0.0.4, written from the format's rules.

parse(text) returns {name: Family} and fails on anything that the format does not allow, or that a
scraper would take amiss: a family in two places, a series twice, a histogram that does not add up.
"""

import math
import re

NAME = r"[a-zA-Z_:][a-zA-Z0-9_:]*"
LABEL = r'[a-zA-Z_][a-zA-Z0-9_]*="(?:[^"\\\n]|\\\\|\\"|\\n)*"'
NUMBER = r"[+-]?(?:[0-9]+(?:\.[0-9]*)?(?:[eE][+-]?[0-9]+)?|Inf)|NaN"
SAMPLE = re.compile(rf"({NAME})(?:\{{({LABEL}(?:,{LABEL})*),?\}})? ({NUMBER})(?: -?[0-9]+)?")
ONE_LABEL = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\\n]|\\\\|\\"|\\n)*)"')
TYPES = {"counter", "gauge", "histogram", "summary", "untyped"}


class Family:
    def __init__(self, name):
        self.name = name
        self.type = None
        self.help = None
        self.samples = {}  # (name, sorted labels) -> value

    def value(self, **labels):
        """The one sample that carries these labels; of a histogram its count."""
        name = self.name + ("_count" if self.type == "histogram" else "")
        found = [value for (sample, had), value in self.samples.items()
                 if sample == name and labels.items() <= dict(had).items()]
        assert len(found) == 1, f"{len(found)} samples of {name} with {labels}"
        return found[0]


def unescape(text):
    return re.sub(r"\\(.)", lambda match: "\n" if match[1] == "n" else match[1], text)


def parse(text):
    assert text.endswith("\n"), "the last line has no end"
    families = {}
    current = None
    for number, line in enumerate(text[:-1].split("\n"), 1):
        current = take_line(families, current, line, f"line {number}: {line!r}")
    for family in families.values():
        check_family(family)
    return families


def take_line(families, current, line, where):
    comment = re.fullmatch(rf"# (HELP|TYPE) ({NAME}) (.*)", line)
    if comment:
        kind, name, rest = comment.groups()
        if current is None or current.name != name:
            assert name not in families, f"{where}: the family is in two places"
            current = families[name] = Family(name)
        assert not current.samples, f"{where}: after samples of the family"
        if kind == "HELP":
            assert current.help is None, f"{where}: a second HELP"
            current.help = rest
        else:
            assert current.type is None and rest in TYPES, where
            current.type = rest
        return current
    assert not line.startswith("# HELP") and not line.startswith("# TYPE"), f"{where}: malformed"
    if line == "" or line.startswith("#"):
        return current
    sample = SAMPLE.fullmatch(line)
    assert sample, f"{where}: not a sample"
    name, labels, value = sample.groups()
    pairs = [(key, unescape(text)) for key, text in ONE_LABEL.findall(labels or "")]
    assert len(dict(pairs)) == len(pairs), f"{where}: a label twice"
    suffixes = ["", "_bucket", "_sum", "_count"] if current and current.type == "histogram" else [""]
    assert current and name in [current.name + suffix for suffix in suffixes], f"{where}: no family"
    series = (name, tuple(sorted(pairs)))
    assert series not in current.samples, f"{where}: the series is there already"
    current.samples[series] = float(value)
    return current


def check_family(family):
    assert family.type is not None and family.help, f"{family.name}: no TYPE or HELP"
    assert family.samples, f"{family.name}: no samples"
    if family.type == "counter":
        assert family.name.endswith("_total"), f"{family.name}: a counter's name"
        assert all(value >= 0 for value in family.samples.values()), family.name
    if family.type == "histogram":
        check_histogram(family)


def check_histogram(family):
    buckets = {}
    for (name, labels), value in family.samples.items():
        assert name != family.name, f"{name}: a histogram has no sample of its own"
        rest = tuple(pair for pair in labels if pair[0] != "le")
        if name == family.name + "_bucket":
            buckets.setdefault(rest, []).append((float(dict(labels)["le"]), value))
    assert buckets, f"{family.name}: no buckets"
    for labels, rows in buckets.items():
        for (lower, fewer), (upper, more) in zip(rows, rows[1:]):
            assert lower < upper, f"{family.name}: bounds out of order"
            assert fewer <= more, f"{family.name}: not cumulative"
        assert rows[-1][0] == math.inf, f"{family.name}: no +Inf"
        assert rows[-1][1] == family.samples[family.name + "_count", labels], family.name
        assert (family.name + "_sum", labels) in family.samples, f"{family.name}: no sum"
