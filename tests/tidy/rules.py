#!/usr/bin/python3
"""usage: tests/tidy/rules.py [ROOT]

The rules of the tree that no compiler checks. One case is one rule. Every ban says what to write
instead, and carries a line that it must find: a rule that no longer bites fails.
"""

import dataclasses
import pathlib
import re
import subprocess
import sys

LINE_COLUMNS = 100
SCRIPT_COLUMNS = 120  # Python and shell: no formatter folds them
FILE_LINES = 800
C_SUFFIXES = (".c", ".h", ".cu", ".cuh")
TEXT_SUFFIXES = C_SUFFIXES + (".py", ".bzl", ".sh", ".md", ".proto", ".yaml", ".txt", ".json", "")


@dataclasses.dataclass
class Source:
    path: str
    text: str
    code: str  # C only: the same lines with comments and string contents blanked

    @property
    def is_c(self):
        return self.path.endswith(C_SUFFIXES)

    @property
    def is_header(self):
        return self.path.endswith((".h", ".cuh"))


# Comments, strings and characters, in the order in which they hide each other.
TOKEN = re.compile(r"/\*.*?\*/|//[^\n]*|\"(?:\\.|[^\"\\\n])*\"|'(?:\\.|[^'\\\n])*'", re.DOTALL)


def blank(match):
    token = match.group()
    if token[0] in "\"'":
        return token[0] + " " * (len(token) - 2) + token[0]
    return re.sub(r"[^\n]", " ", token)


def is_include(text, start):
    return text[text.rfind("\n", 0, start) + 1 : start].lstrip().startswith("#include")


def strip_c(text):
    """The code alone, at the same places. Names of included files stay."""
    return TOKEN.sub(lambda m: m.group() if is_include(text, m.start()) else blank(m), text)


def read_tree(root):
    listed = subprocess.run(["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
                            cwd=root, check=True, stdout=subprocess.PIPE, timeout=60)
    for name in sorted(set(listed.stdout.decode().split("\0"))):
        path = root / name
        if not name or not path.is_file() or path.suffix not in TEXT_SUFFIXES:
            continue
        if "/seeds/" in name or "/golden/" in name:  # bytes that somebody else wrote
            continue
        try:
            text = path.read_text()
        except UnicodeDecodeError:
            continue
        yield Source(name, text, strip_c(text) if name.endswith(C_SUFFIXES) else text)


def line_of(text, offset):
    return text.count("\n", 0, offset) + 1


# Bans.


@dataclasses.dataclass
class Ban:
    name: str
    pattern: str
    instead: str
    example: str  # must be found
    allowed: tuple = ()  # path prefixes


TESTS = ("tests/", "bench/")

BANS = [
    Ban("assert.h", r"#include\s*<assert\.h>|(?<![\w.])assert\s*\(",
        "SPIN_ASSERT of base/assert.h, which -c opt does not remove", "#include <assert.h>"),
    Ban("getenv", r"\b(?:secure_)?getenv\s*\(", "an option in the program's table (base/config.h)",
        'x = getenv("HOME");', ("base/config.c",) + TESTS),
    Ban("strcpy", r"\b(?:strn?cpy|stpn?cpy)\s*\(", "snprintf, or memcpy with a known length",
        "strcpy(a, b);"),
    Ban("strcat", r"\bstrn?cat\s*\(", "snprintf at an offset", "strcat(a, b);"),
    Ban("sprintf", r"\bv?sprintf\s*\(", "snprintf", 'sprintf(a, "x");'),
    Ban("atoi", r"\bato(?:i|l|ll|f)\s*\(", "a parser that reports errors and overflow (strtoull, ...)",
        "n = atoi(s);"),
    Ban("strtok", r"\bstrtok(?:_r)?\s*\(", "strcspn and strspn over the text", 'strtok(s, ",");'),
    Ban("gets", r"(?<![\w.])gets\s*\(|\bscanf\s*\(", "fgets and a parser", 'scanf("%d", &n);'),
    Ban("locks", r"\bpthread_(?:mutex|cond|rwlock|spin)\w*\s*[(; ]",
        "base/ring.h to move ownership; base/mutex.h where threads must meet",
        "pthread_mutex_lock(&m);", ("base/mutex",)),
    Ban("device memory", r"\bcuda(?:Malloc|Free|HostAlloc|MallocHost|FreeHost)\w*\s*\(",
        "struct spin_device of kernels/device.h", "cudaMalloc(&p, n);", ("kernels/device", "bench/")),
    Ban("clocks", r"\b(?:clock_gettime|gettimeofday|usleep|nanosleep|sleep)\s*\(|(?<![\w.>])time\s*\(",
        "time as an argument, or struct spin_clock (base/clock.h); deadlines, never sleeps",
        "sleep(1);", ("base/clock.c", "kernels/device_cuda.cu") + TESTS),  # naps between queries of a device
    Ban("random numbers", r"(?<![\w.>])(?:s?rand|s?random|drand48)\s*\(",
        "a seeded struct spin_rng (base/rng.h)", "x = rand();"),
    Ban("exit", r"(?<![\w.>])(?:_?exit|abort|quick_exit)\s*\(",
        "a status to main, or SPIN_ASSERT for a bug", "exit(1);",
        ("base/assert.c", "worker/service/process.c") + TESTS),  # the latter leaves a lost device behind
    Ban("include guards", r"#ifndef\s+\w+_H_*\b", "#pragma once", "#ifndef SPIN_X_H"),
    Ban("line comments", r"//", "/* */ in C; // is for .cu", "int x; // a counter"),
]


def find_ban(ban, source):
    if not source.is_c or source.path.startswith(ban.allowed or ("\0",)):
        return
    if ban.name == "line comments":
        # Strings go first, so that the // of an address is none.
        code = re.sub(r"/\*.*?\*/|\"(?:\\.|[^\"\\\n])*\"|'(?:\\.|[^'\\\n])*'", blank, source.text,
                      flags=re.DOTALL)
        if source.path.endswith((".cu", ".cuh")):
            return
    else:
        code = source.code
    for match in re.finditer(ban.pattern, code):
        yield source.path, line_of(code, match.start()), f"{match.group().strip()}: use {ban.instead}"


# Memory (M3): taken and given back where objects are made and unmade, and nowhere on the way.

ALLOCATION = re.compile(r"(?<![\w.>])(?:malloc|calloc|realloc|reallocarray|free|aligned_alloc|"
                        r"posix_memalign|strdup|strndup|asprintf|mmap|munmap)\s*\(")
MAKER = re.compile(r"(?:^|_)(?:create|destroy|open|close|load|unload|init|deinit|start|stop|make|new|"
                   r"free|alloc|allocate|grow|build|release|unref)(?:_|$)")
# Whole files, each with its reason.
ALLOCATING_FILES = {
    "base/": "implements the allocators, buffers and containers that the rest uses",
    "bench/": "benchmarks",
    "client/": "a command-line program",
    "model/": "loads at start and is read-only afterwards; requests bring their arenas",
    "proto/rpc_call.c": "one object per call, freed by its last reference",
    "tests/": "test programs",
    "worker/engine/engine_tiers.c": "reads the memory limit at start; a test keeps the step free of malloc",
}
FUNCTION = re.compile(r"^[A-Za-z_][\w \t*(),\[\]\n]*?\b(\w+)\s*\([^;{}]*\)\s*\n\{", re.MULTILINE)


def find_allocation(source):
    if not source.path.endswith((".c", ".cu")) or source.path.startswith(tuple(ALLOCATING_FILES)):
        return
    functions = [(m.end(), m.group(1)) for m in FUNCTION.finditer(source.code)]
    for match in ALLOCATION.finditer(source.code):
        inside = [name for start, name in functions if start <= match.start()]
        name = inside[-1] if inside else ""
        if not MAKER.search(name):
            yield (source.path, line_of(source.code, match.start()),
                   f"{match.group()[:-1]} in {name or 'no function'}: take it from an arena or pool, "
                   "or do it in a function that creates or destroys")


# Headers are contracts (H1, H2).

SECTIONS = ["Why", "Ownership", "Threading", "Units", "Errors"]  # others stand where they read best
WORDS_ONLY = {
    "base/base.h": "macros, and no function",
    "base/version.h": "one constant",
}


def find_headers(source):
    if not source.is_header:
        return
    path = source.path
    stem = pathlib.PurePosixPath(path).stem
    top = re.match(r"/\*.*?\*/", source.text, re.DOTALL)
    comment = top.group() if top else "\n".join(
        line for line in source.text.split("\n\n")[0].splitlines() if line.startswith("//"))
    if not re.match(rf"(?:/\*|//) {re.escape(stem)}: \S", comment):
        yield path, 1, f'must start with "/* {stem}: <what it is, in one sentence>"'
        return
    if not re.search(r"^#pragma once$", source.text, re.MULTILINE):
        yield path, 1, "has no #pragma once"
    if path in WORDS_ONLY:
        return
    found = [name for name in re.findall(r"^(?: \*|//) +([A-Z]\w+) {2,}\S", comment, re.MULTILINE)
             if name in SECTIONS]
    if found != sorted(found, key=SECTIONS.index):
        yield path, 1, f"sections {', '.join(found)}: the order is {', '.join(SECTIONS)}"
    # An operation's contract (K2) has its own words; everybody else owes these two.
    operation = re.search(r"^ \* (?:Execution|Invariance) ", comment, re.MULTILINE)
    for section in () if operation else ("Why", "Threading"):
        if section not in found:
            yield path, 1, f'top comment has no "{section}"'


# Text.

CODE_NAMES = re.compile(r"\.(?:c|h|cu|cuh|bzl|py|sh)$|(?:^|/)(?:BUILD|WORKSPACE|run|headers|local)$")


def find_long_lines(source):
    if not CODE_NAMES.search(source.path):
        return  # prose and data
    folded = source.path.endswith(C_SUFFIXES + (".bzl", "BUILD", "WORKSPACE"))
    limit = LINE_COLUMNS if folded else SCRIPT_COLUMNS
    for number, line in enumerate(source.text.splitlines(), 1):
        if len(line) > limit:
            yield source.path, number, f"{len(line)} columns: at most {limit}"


def find_long_files(source):
    lines = source.text.count("\n")
    if source.is_c and lines > FILE_LINES:
        yield source.path, 1, f"{lines} lines: at most {FILE_LINES}; it has two jobs"


def find_white_space(source):
    if not source.is_c and not CODE_NAMES.search(source.path):
        return
    for number, line in enumerate(source.text.split("\n"), 1):
        if line != line.rstrip():
            yield source.path, number, "white space at the end of the line"
        if source.is_c and "\t" in line:
            yield source.path, number, "a tab: four blanks"
    if source.text and not source.text.endswith("\n"):
        yield source.path, source.text.count("\n") + 1, "no newline at the end"


# Written in halves, so that this file does not find itself.
LATER = re.compile(r"\b(?:TO" r"DO(?!\([a-z]+\): )|FIX" r"ME|XX" r"X|HA" r"CK)\b")
# The tree stands alone: it names no host to download from and no folder of somebody's machine.
# This machine's own addresses, and those that a program fills in, are nobody's host.
FOREIGN = re.compile(r"https?:" r"//(?!example\.org\b|127\.0\.0\.1\b|localhost\b|[%${])"
                     r"|(?<![\w$}\"])/(?:ho" r"me|wo" r"rk|us" r"r/local/src)/")


def find_later(source):
    for match in LATER.finditer(source.text):
        yield (source.path, line_of(source.text, match.start()),
               f"{match.group()}: write TO" "DO(name): what, when; better, do it")


def find_foreign(source):
    for match in FOREIGN.finditer(source.text):
        yield (source.path, line_of(source.text, match.start()),
               f'"{match.group()}": a host or a folder outside this tree')


def find_dead(sources):
    """Headers that nobody includes and C files that no BUILD file could build."""
    paths = {source.path for source in sources}
    included = {}
    for source in sources:
        for name in re.findall(r'#include\s+"([^"]+)"', source.text) if source.is_c else ():
            included.setdefault(name, set()).add(source.path)
    for source in sources:
        if source.path.endswith(".h") and not included.get(source.path):
            yield source.path, 1, "is included by nobody"
        if source.path.endswith((".c", ".cu")):
            directories = pathlib.PurePosixPath(source.path).parents
            if not any(f"{directory}/BUILD" in paths for directory in directories):
                yield source.path, 1, "is built by nobody: no BUILD file here or above"


# Each rule must find its example, given as a file.

HEADER_WITHOUT_CONTRACT = Source("x/y.h", "/* y: a thing. */\n#pragma once\n", "")


def example(text, path="x/y.c"):
    return Source(path, text, strip_c(text))


def rules():
    for ban in BANS:
        yield ban.name, lambda s, ban=ban: find_ban(ban, s), example(ban.example + "\n")
    yield "allocation", find_allocation, example("static void step(void)\n{\n    malloc(1);\n}\n")
    yield "header contracts", find_headers, HEADER_WITHOUT_CONTRACT
    yield "line length", find_long_lines, example("int " + "x" * LINE_COLUMNS + ";\n")
    yield "file length", find_long_files, example("\n" * (FILE_LINES + 1))
    yield "white space", find_white_space, example("int x; \n")
    yield "later", find_later, example("/* TO" "DO: later */\n")
    yield "foreign places", find_foreign, example("/* see /wo" "rk/x */\n")


def report(name, found):
    for path, line, text in found:
        print(f"FAILED: {name}: {path}:{line}: {text}")
    return not found


def main():
    root = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else pathlib.Path(__file__).parents[2])
    sources = list(read_tree(root.resolve()))
    passed = failed = 0
    for name, find, bad in rules():
        found = [item for source in sources for item in find(source)]
        if not list(find(bad)):
            found.append((bad.path, 1, "the rule does not find its own example"))
        good = report(name, found)
        passed, failed = passed + good, failed + (not good)
    good = report("dead files", list(find_dead(sources)))
    if not list(find_dead([example("int x;\n"), HEADER_WITHOUT_CONTRACT])):
        good = report("dead files", [("x/y.h", 1, "the rule does not find its own example")])
    passed, failed = passed + good, failed + (not good)
    print(f"{passed} passed, {failed} failed, 0 skipped")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
