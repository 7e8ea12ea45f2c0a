"""Counts test cases in what test programs print: cmocka, pytest, and our own scripts' last line."""

import dataclasses
import json
import pathlib
import re
import urllib.parse


@dataclasses.dataclass
class Count:
    passed: int = 0
    failed: int = 0
    skipped: int = 0
    failures: list = dataclasses.field(default_factory=list)  # what failed, and where its log lies
    reasons: list = dataclasses.field(default_factory=list)  # why what was skipped was

    def add(self, other):
        self.passed += other.passed
        self.failed += other.failed
        self.skipped += other.skipped
        self.failures += other.failures
        self.reasons += other.reasons

    def fail(self, what):
        self.failed += 1
        self.failures.append(what)

    def line(self):
        return f"{self.passed} passed, {self.failed} failed, {self.skipped} skipped"


CMOCKA = {
    "passed": re.compile(r"^\[  PASSED  \] (\d+) test\(s\)\.", re.M),
    "failed": re.compile(r"^\[  FAILED  \] (\d+) test\(s\), listed below:", re.M),
    "skipped": re.compile(r"^\[  SKIPPED \] (\d+) test\(s\), listed below:", re.M),
}
PYTEST_END = re.compile(r"^(?=.*\bin [\d.]+s)((?:\d+ [a-z]+(?:, )?)+) in [\d.]+s", re.M)
PYTEST_PART = re.compile(r"(\d+) (passed|failed|errors?|skipped|xfailed|xpassed)")
PLAIN_END = re.compile(r"^(\d+) passed, (\d+) failed, (\d+) skipped$", re.M)
REASONS = [
    re.compile(r"^SKIPPED \[\d+\] \S+ (.+)$", re.M),  # pytest -ra
    re.compile(r"^skipped: (.+)$", re.M),  # ours
]


def count_cmocka(text):
    found = {key: pattern.findall(text) for key, pattern in CMOCKA.items()}
    if not any(found.values()):
        return None
    return Count(**{key: sum(map(int, values)) for key, values in found.items()})


def count_pytest(text):
    ends = PYTEST_END.findall(text)
    if not ends:
        return None
    count = Count()
    for number, word in PYTEST_PART.findall(ends[-1]):
        if word in ("passed", "xpassed"):
            count.passed += int(number)
        elif word in ("skipped", "xfailed"):
            count.skipped += int(number)
        else:
            count.failed += int(number)
    return count


def count_plain(text):
    ends = PLAIN_END.findall(text)
    if not ends:
        return None
    passed, failed, skipped = map(int, ends[-1])
    return Count(passed, failed, skipped)


def count_text(text, name):
    """The cases that a test's output tells of, or None where it tells of none."""
    count = count_plain(text) or count_pytest(text) or count_cmocka(text)
    if count is not None and count.skipped:
        why = [reason for pattern in REASONS for reason in pattern.findall(text)]
        count.reasons = [f"{name}: {reason}" for reason in why or ["no reason given"]]
    return count


def read_log(result):
    for output in result.get("testActionOutput", []):
        if output.get("name") == "test.log":
            path = pathlib.Path(urllib.parse.unquote(urllib.parse.urlparse(output["uri"]).path))
            return path, path.read_text(errors="replace") if path.exists() else ""
    return None, ""


def count_result(label, result):
    """One test program of Bazel's, run now or taken from the cache."""
    path, text = read_log(result)
    count = count_text(text, label)
    good = result.get("status") == "PASSED"
    if count is None:
        count = Count(passed=1) if good else Count()
    if not good and count.failed == 0:
        count.failed = 1  # it crashed, or ran out of time
    if count.failed:
        count.failures.append(f"{label}: {result.get('status')}: {path}")
    return count


def count_bazel(events):
    """Sums up a `bazel test` from its build events; a target that did not build is one failure."""
    total = Count()
    if not events.exists():
        return total
    last = {}  # a flaky test has one result for each attempt: the last one counts
    for line in events.read_text().splitlines():
        event = json.loads(line)
        if "testResult" in event:
            identity = event["id"]["testResult"]
            last[identity["label"], identity.get("shard", 0), identity.get("run", 0)] = \
                event["testResult"]
        elif "completed" in event and not event["completed"].get("success", False):
            label = event["id"].get("targetCompleted", {}).get("label", "a target")
            total.fail(f"{label}: did not build")
    for (label, _, _), result in sorted(last.items()):
        total.add(count_result(label, result))
    return total
