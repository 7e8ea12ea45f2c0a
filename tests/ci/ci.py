"""The steps of tests/run after the set-up: runs them all, sums their test cases, fails on any failure.

Every step returns a Count. Whole output goes to .cache/ci/<step>.log; on the terminal stand one line a
step, what failed with the path of its log, why what was skipped was skipped, and the sum as last line.
"""

import os
import pathlib
import shutil
import subprocess
import sys
import time

from count import Count, count_bazel, count_text

ROOT = pathlib.Path(__file__).resolve().parents[2]
LOGS = ROOT / ".cache" / "ci"
STEP_LIMIT_S = 3600  # none takes nearly as long; it ends what hangs
FUZZ_S = 60  # for each fuzz target under --all
CORES = str(os.cpu_count())

# With two cores, more at a time would make timing-sensitive tests fail for want of a core.
BAZEL_TEST = ["bazel", "test", "--keep_going", f"--jobs={CORES}", f"--local_test_jobs={CORES}",
              "--test_output=errors", "--noshow_progress", "--color=no"]


def log_path(name):
    return LOGS / f"{name}.log"


def run_logged(name, command):
    """Runs a command with its output in the step's log; returns its exit code."""
    with log_path(name).open("w") as log:
        try:
            return subprocess.run(command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=log,
                                  stderr=subprocess.STDOUT, timeout=STEP_LIMIT_S).returncode
        except subprocess.TimeoutExpired:
            log.write(f"\nno end after {STEP_LIMIT_S} s\n")
            return 124


def tracked(*patterns):
    """Files that are ours: tracked or new, not ignored."""
    listed = subprocess.run(["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard",
                             *patterns], cwd=ROOT, check=True, stdout=subprocess.PIPE, timeout=60)
    names = listed.stdout.decode().split("\0")
    return sorted(name for name in set(names) if name and (ROOT / name).is_file())


def one_case(name, command):
    """A check that is one test case: it passes or it does not."""
    if run_logged(name, command) == 0:
        return Count(passed=1)
    return Count(failed=1, failures=[f"{name}: {log_path(name)}"])


def check_format():
    return one_case("format", ["clang-format", "--dry-run", "-Werror",
                               *tracked("*.c", "*.h", "*.cu", "*.cuh")])


def is_shell(path):
    with (ROOT / path).open("rb") as file:
        first = file.readline(64)
    return first.startswith(b"#!") and first.rstrip().endswith((b"/bash", b"/sh"))


def check_shell():
    return one_case("shellcheck", ["shellcheck", "-x", *filter(is_shell, tracked())])


def bazel_test(name, options, targets):
    events = LOGS / f"{name}.json"
    events.unlink(missing_ok=True)
    code = run_logged(name, [*BAZEL_TEST, f"--build_event_json_file={events}", *options, "--",
                             *targets])
    count = count_bazel(events)
    no_tests_found = 4
    if code not in (0, no_tests_found) and not count.failures:
        count.fail(f"{name}: bazel exited with {code}: {log_path(name)}")
    return count


def test_optimised():
    return bazel_test("test", [], ["//..."])


def test_asan_ubsan():
    return bazel_test("asan", ["--config=asan", "--config=ubsan", "--build_tests_only",
                               "--test_tag_filters=-no-sanitizer,-gpu"], ["//tests/..."])


def test_tsan():
    """gRPC is not instrumented: what crosses it carries the tag no-tsan."""
    return bazel_test("tsan", ["--config=tsan", "--build_tests_only",
                               "--test_tag_filters=-no-sanitizer,-no-tsan,-gpu"], ["//tests/..."])


def test_long():
    """Tests tagged long and manual, which //... leaves out."""
    found = subprocess.run(["bazel", "query", 'attr(tags, "\\blong\\b", //tests/...)'], cwd=ROOT,
                           stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
                           timeout=STEP_LIMIT_S).stdout.split()
    if not found:
        return Count(failed=1, failures=["long: bazel query finds no test tagged long"])
    return bazel_test("long", [], found)


def script(name, command):
    """A script of ours that ends in 'N passed, N failed, N skipped'."""
    if not (ROOT / command[0]).exists():
        return Count(skipped=1, reasons=[f"{name}: no {command[0]} here"])
    code = run_logged(name, [str(ROOT / command[0]), *command[1:]])
    count = count_text(log_path(name).read_text(errors="replace"), name)
    if count is None:
        count = Count()
    if code != 0 and count.failed == 0:
        count.fail(f"{name}: exited with {code}")
    if count.failed:
        count.failures.append(f"{name}: {log_path(name)}")
    return count


STEPS = [
    ("format", check_format),
    ("shell scripts", check_shell),
    ("tidy", lambda: script("tidy", ["tests/tidy/run"])),
    ("build and test", test_optimised),
    ("test with ASan and UBSan", test_asan_ubsan),
]

STEPS_ALL = [
    ("test with TSan", test_tsan),
    ("clang-tidy", lambda: script("clang_tidy", ["tests/tidy/clang_tidy"])),
    ("fuzz", lambda: script("fuzz", ["tests/fuzz/run", str(FUZZ_S)])),
    ("quality", lambda: script("quality", ["tests/quality/run"])),
    ("long tests", test_long),
]


def main():
    shutil.rmtree(LOGS, ignore_errors=True)
    LOGS.mkdir(parents=True)
    total = Count()
    for title, step in STEPS + (STEPS_ALL if sys.argv[1] == "all" else []):
        started = time.monotonic()
        print(f"== {title}", flush=True)
        count = step()
        print(f"   {count.line()}  ({time.monotonic() - started:.1f} s)", flush=True)
        total.add(count)
    if os.environ.get("CI") == "true":
        # Nothing of ours may outlive a CI run, Bazel's server included.
        subprocess.run(["bazel", "shutdown"], cwd=ROOT, stderr=subprocess.DEVNULL, timeout=60)
    print()
    for reason in sorted(set(total.reasons)):
        print(f"skipped: {reason}")
    for failure in total.failures:
        print(f"FAILED: {failure}")
    if total.passed == 0:
        print("FAILED: not one test passed")
        total.failed += 1
    print(total.line())
    return 1 if total.failed else 0


if __name__ == "__main__":
    sys.exit(main())
