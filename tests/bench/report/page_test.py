"""The report in a browser: it draws what the file says, fetches nothing, and markup in a label stays text."""

import html.parser
import json
import os
import pathlib
import re
import shutil
import struct
import subprocess

import numpy
import pytest

PROBE = os.environ["SPIN_PROBE"]
BROWSER = shutil.which("chromium-headless-shell") or shutil.which("chromium")
EVIL = "</script><img onerror=alert(1)>"

pytestmark = pytest.mark.skipif(BROWSER is None, reason="no chromium-headless-shell: deploy/setup test installs it")


def probe(*arguments, lines=""):
    subprocess.run([PROBE, *map(str, arguments)], input=lines, text=True, timeout=60, check=True,
                   stdout=subprocess.DEVNULL)


def browse(tmp_path, *arguments):
    """Runs the browser on a profile of its own; gives its standard output."""
    ran = subprocess.run([BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
                          f"--user-data-dir={tmp_path}/profile", *arguments],
                         capture_output=True, text=True, timeout=120, check=False,
                         env={**os.environ, "HOME": str(tmp_path)})
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def write_run(path, label, rate, seed, slower=1.0):
    """A server whose first token takes longer the more streams are open: 300 requests."""
    rng = numpy.random.default_rng(seed)
    at, open_until, rows, end = 0, [], [], 0
    for index in range(300):
        at += int(rng.exponential(1e9 / rate))
        open_until = [until for until in open_until if until > at]
        prompt, output = int(rng.lognormal(6, 0.8)), int(rng.integers(10, 120))
        first = at + int((50e6 + prompt * 6e4 + len(open_until) * 9e6) * slower * rng.lognormal(0, 0.15))
        gap = (12e6 + len(open_until) * 0.7e6) * slower
        last = first + int((output - 1) * gap)
        failed = 6 if rng.random() < 0.02 else 0
        open_until.append(last)
        end = max(end, last)
        rows.append(f"request {at} {at + 10**5} {first} {last} {last} {index} {prompt} {output} {output} {failed} "
                    f"{int(at < 2e9)} 1")
        for token in range(output):
            rows.append(f"tokens {int(first + token * gap)} 1")
            if at >= 2e9 and token:
                rows.append(f"gap {int(gap * rng.lognormal(0, 0.2))} 1")
    rows += ["slo 500000000 40000000 0", f"end {end}", f"label {label}", f"rate {rate}", f"seed {seed}",
             'metric 0 spin_requests_total{reason="stop"} 5', 'metric 1 spin_requests_total{reason="stop"} 305']
    probe("run", path, lines="\n".join(rows) + "\n")
    return path


class Page(html.parser.HTMLParser):
    """Counts elements, and keeps the text of each figure and table cell."""

    def __init__(self, text):
        super().__init__()
        self.counts, self.cells, self.stack = {}, [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.counts[tag] = self.counts.get(tag, 0) + 1
        self.stack.append(tag)
        if tag in ("td", "th"):
            self.cells.append("")

    def handle_endtag(self, tag):
        while self.stack and self.stack.pop() != tag:
            pass

    def handle_data(self, data):
        if self.stack and ("td" in self.stack or "th" in self.stack):
            self.cells[-1] += data


def draw(tmp_path, path):
    text = browse(tmp_path, "--virtual-time-budget=10000", "--dump-dom", f"file://{path}")
    assert 'data-drawn="true"' in text  # the script ran to its end
    assert not re.search(r"\bNaN\b|undefined|Infinity", re.sub(r"<script.*?</script>", "", text, flags=re.DOTALL))
    return Page(text)


def is_picture(path):
    data = path.read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    return struct.unpack(">II", data[16:24])


@pytest.fixture(scope="module", name="sides")
def make_sides(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    base = [write_run(folder / f"a{seed}.json", "router, 2 workers", 8, seed) for seed in range(3)]
    other = [write_run(folder / f"b{seed}.json", "another server", 8, seed, slower=1.25) for seed in range(3)]
    return base, other


def test_comparison(sides, tmp_path):
    base, other = sides
    page_path = tmp_path / "compare.html"
    probe("compare", *base, "vs", *other, "--html", page_path, "--json", tmp_path / "compare.json")
    page = draw(tmp_path, page_path)
    figures = json.loads((tmp_path / "compare.json").read_text())["figures"]
    for figure in figures:
        assert figure["name"] in page.cells
        assert f"{figure['ratio']:.3f}" in page.cells
    assert page.counts["figure"] == 9  # four distributions, five over time
    assert page.counts["path"] == 6 * (4 + 1 + 2 + 1)  # a line for each run: streams have two, scatters none
    assert page.counts["circle"] > 2 * 6 * 200
    assert "worse" in page.cells and "stalled" in page.cells
    picture = pathlib.Path(os.environ.get("SPIN_PICTURE", tmp_path / "compare.png"))
    browse(tmp_path, "--window-size=1200,2560", f"--screenshot={picture}", f"file://{page_path}")
    assert is_picture(picture) == (1200, 2560)


def test_sweep(tmp_path):
    runs = [write_run(tmp_path / f"{rate}.json", "swept", rate, 1) for rate in (2, 8, 16)]
    probe("report", *runs, "--html", tmp_path / "sweep.html", "--title", "a sweep")
    page = draw(tmp_path, tmp_path / "sweep.html")
    assert page.counts["figure"] == 9 + 4
    assert "16 req/s" in page.cells


def test_a_label_is_text_and_nothing_is_fetched(tmp_path):
    write_run(tmp_path / "evil.json", EVIL, 8, 1)
    probe("report", tmp_path / "evil.json", "--html", tmp_path / "evil.html", "--title", EVIL)
    source = (tmp_path / "evil.html").read_text()
    assert "<img" not in source
    assert "default-src 'none'" in source
    assert not re.search(r"\b(?:src|href)\s*=|url\(|@import|\bfetch\(|XMLHttpRequest|https?://", source)
    page = draw(tmp_path, tmp_path / "evil.html")
    assert "img" not in page.counts
    assert any(EVIL in cell for cell in page.cells)


def test_nothing_measured(tmp_path):
    probe("run", tmp_path / "empty.json", lines="end 1000000000\n")
    probe("report", tmp_path / "empty.json", "--html", tmp_path / "empty.html")
    page = draw(tmp_path, tmp_path / "empty.html")
    assert page.counts["figure"] == 8
    assert "circle" not in page.counts
