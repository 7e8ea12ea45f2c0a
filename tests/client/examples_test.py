"""The programs of docs/sdk.md, run as the document says."""

import math
import os
import pathlib
import re
import subprocess

import pytest

from tests.cluster import cluster


@pytest.fixture(scope="module")
def c(tmp_path_factory):
    with cluster.running(tmp_path_factory.mktemp("cluster"), workers=1,
                         worker_options=("--max-model-len", "400")) as one:
        yield one


def run(name, *arguments):
    return subprocess.run([os.environ[name], *arguments], env=cluster.CLEAN, timeout=60,
                          check=False, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, text=True, errors="replace")


def test_generate(c):
    done = run("SPIN_EXAMPLE_GENERATE", c.router.address, "Who is there?")
    assert done.returncode == 0, done.stderr
    tokens = re.search(r"(\d+) tokens in, (\d+) out, because of (the model|max_tokens)",
                       done.stderr)
    assert int(tokens[1]) > len("Who is there?") and 0 < int(tokens[2]) <= 64
    assert done.stdout


def test_stream(c):
    questions = [f"Question {i}?" for i in range(6)]
    done = run("SPIN_EXAMPLE_STREAM", c.router.address, *questions)
    assert done.returncode == 0, done.stderr
    assert all(question in done.stdout for question in questions)


def test_stream_tells_which_one_failed(c):
    done = run("SPIN_EXAMPLE_STREAM", c.router.address, "Short?", "long " * 200)
    assert done.returncode == 1
    assert "400 tokens" in done.stdout and "Short?" in done.stdout


def test_score(c):
    text = "Is this a likely text?"
    done = run("SPIN_EXAMPLE_SCORE", c.router.address, text)
    assert done.returncode == 0, done.stderr
    *rows, last = done.stdout.splitlines()
    values = [float(row.split()[1]) for row in rows]
    assert [int(row.split()[0]) for row in rows] == list(text.encode()[1:])  # a token is a byte
    assert all(value < 0 for value in values)
    perplexity = math.exp(-sum(values) / len(values))
    assert float(last.split()[1]) == pytest.approx(perplexity, rel=1e-3)


def test_without_bazel(c, tmp_path):
    """As docs/sdk.md says, with the compiler alone."""
    document = pathlib.Path(os.environ["SPIN_SDK_DOCUMENT"]).read_text()
    link = re.search(r"-L spin/lib (.*) -o generate", document)[1].split()
    subprocess.run(["tar", "-xf", os.environ["SPIN_SDK"]], cwd=tmp_path, check=True)
    subprocess.run(["cc", "-std=c17", "-I", "spin/include", os.environ["SPIN_EXAMPLE_SOURCE"],
                    "-L", "spin/lib", *link, "-o", "generate"], cwd=tmp_path, check=True)
    done = subprocess.run([tmp_path / "generate", c.router.address, "Who is there?"], timeout=60,
                          check=False, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE)
    assert done.returncode == 0, done.stderr
    assert b"tokens in" in done.stderr


def test_a_wrong_address():
    for name in ("SPIN_EXAMPLE_GENERATE", "SPIN_EXAMPLE_STREAM", "SPIN_EXAMPLE_SCORE"):
        done = run(name, "nowhere", "x")
        assert done.returncode == 1 and "host:port" in done.stderr
        assert run(name).returncode == 2
