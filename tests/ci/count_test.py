"""Counting: what the test programs really print, and build events made by hand."""

import json

import pytest

from tests.ci.count import count_bazel, count_text

CMOCKA = """\
[==========] Running 4 test(s).
[ RUN      ] a
[       OK ] a
[ RUN      ] b
[  SKIPPED ] b
[ RUN      ] c
[  FAILED  ] c
[ RUN      ] d
[       OK ] d
[==========] 4 test(s) run.
[  PASSED  ] 2 test(s).
[  SKIPPED ] 1 test(s), listed below:
[  SKIPPED ] b
[  FAILED  ] 1 test(s), listed below:
[  FAILED  ] c

 1 FAILED TEST(S)
"""


@pytest.mark.parametrize("text, wanted", [
    (CMOCKA, (2, 1, 1)),
    (CMOCKA + CMOCKA, (4, 2, 2)),
    ("....\n4 passed in 0.12s\n", (4, 0, 0)),
    ("1 failed, 3 passed, 2 skipped, 1 warning in 61.20s (0:01:01)\n", (3, 1, 2)),
    ("2 passed, 1 xfailed, 1 error in 2.00s\n", (2, 1, 1)),
    ("checking\n7 passed, 0 failed, 2 skipped\n", (7, 0, 2)),
])
def test_counts(text, wanted):
    count = count_text(text, "x")
    assert (count.passed, count.failed, count.skipped) == wanted


def test_silent_output_has_no_count():
    assert count_text("hello\n", "x") is None


def test_reasons_of_skips():
    count = count_text("skipped: no nvcc\n0 passed, 0 failed, 1 skipped\n", "//a:b")
    assert count.reasons == ["//a:b: no nvcc"]
    count = count_text("SKIPPED [1] a_test.py:3: no model\n1 skipped in 0.01s\n", "//a:c")
    assert count.reasons == ["//a:c: no model"]


def result(label, status, log):
    return {"id": {"testResult": {"label": label, "run": 1, "shard": 1, "attempt": 1}},
            "testResult": {"status": status,
                           "testActionOutput": [{"name": "test.log", "uri": f"file://{log}"}]}}


def test_bazel_events(tmp_path):
    good = tmp_path / "good.log"
    good.write_text("3 passed in 0.1s\n")
    crashed = tmp_path / "crashed.log"
    crashed.write_text("[       OK ] a\nSegmentation fault\n")
    events = tmp_path / "events.json"
    events.write_text("\n".join(map(json.dumps, [
        result("//a:good", "PASSED", good),
        result("//a:silent", "PASSED", tmp_path / "none.log"),
        result("//a:crashed", "FAILED", crashed),
        {"id": {"targetCompleted": {"label": "//a:broken"}}, "completed": {}},
        {"id": {"targetCompleted": {"label": "//a:good"}}, "completed": {"success": True}},
    ])))
    count = count_bazel(events)
    assert (count.passed, count.failed, count.skipped) == (4, 2, 0)
    assert any("//a:broken" in failure for failure in count.failures)
    assert any(str(crashed) in failure for failure in count.failures)


def test_no_events(tmp_path):
    assert count_bazel(tmp_path / "none.json").line() == "0 passed, 0 failed, 0 skipped"
