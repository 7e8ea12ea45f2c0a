"""Every figure of a run against NumPy in float64, from the definitions of bench/report/summary.h."""

import json
import math
import os
import subprocess

import numpy
import pytest

PROBE = os.environ["SPIN_PROBE"]
OUTCOMES = ["ok", "connect", "busy", "refused", "server", "broken", "stalled", "timeout", "protocol",
            "empty", "unsent", "cut"]
OK, UNSENT = 0, OUTCOMES.index("unsent")
MS = 1e6


def probe(*arguments, lines="", code=0):
    ran = subprocess.run([PROBE, *map(str, arguments)], input=lines, capture_output=True, text=True, timeout=60,
                         check=False)
    assert ran.returncode == code, ran.stderr
    return ran


def make_requests(seed, count):
    """Requests as dictionaries, some failed, some unsent, some before the start."""
    rng = numpy.random.default_rng(seed)
    requests = []
    at = 0
    for index in range(count):
        at += int(rng.exponential(40e6))
        outcome = OK if rng.random() < 0.85 else int(rng.integers(1, len(OUTCOMES)))
        sent = at + int(rng.exponential(1e6))
        first = sent + int(rng.lognormal(math.log(200e6), 0.6))
        output = int(rng.integers(1, 120))
        last = first + int((output - 1) * rng.normal(20e6, 1e6))
        end = last + int(rng.exponential(2e6))
        if outcome == UNSENT:
            sent, first, last, end, output = at, 0, 0, at, 0
        elif outcome != OK and rng.random() < 0.5:
            first, last, output = 0, 0, 0
        requests.append({"intended": at, "sent": sent, "first": first, "last": last, "end": end, "index": index,
                         "prompt": int(rng.integers(1, 4000)), "output": output, "messages": output,
                         "outcome": outcome, "warm": int(at < 500e6), "usage": 1})
    return requests


def lines_of(requests, extra=()):
    rows = ["request " + " ".join(str(value) for value in request.values()) for request in requests]
    return "\n".join([*rows, *extra]) + "\n"


def percentile(values, p):
    return numpy.percentile(values, p, method="inverted_cdf")


def check_spread(spread, values, tolerance=1e-12):
    assert spread["count"] == len(values)
    for key, wanted in {"mean_ms": numpy.mean(values), "p50_ms": percentile(values, 50),
                        "p90_ms": percentile(values, 90), "p99_ms": percentile(values, 99)}.items():
        assert spread[key] == pytest.approx(wanted, rel=tolerance), key
    assert spread["min_ms"] == pytest.approx(min(values), rel=1e-12)
    assert spread["max_ms"] == pytest.approx(max(values), rel=1e-12)


@pytest.fixture(scope="module", name="run")
def make_run(tmp_path_factory):
    requests = make_requests(1, 700)
    rng = numpy.random.default_rng(2)
    gaps = rng.lognormal(math.log(20e6), 0.8, 40000).astype(numpy.int64)
    end = max(request["end"] for request in requests)
    tokens = numpy.sort(rng.integers(0, end, 3000))
    path = tmp_path_factory.mktemp("run") / "run.json"
    probe("run", path, lines=lines_of(requests, [
        "slo 300000000 20500000 2500000000", f"end {end}", "seed 18446744073709551615", "label one <script>",
        *(f"gap {gap} 1" for gap in gaps), *(f"tokens {at} 2" for at in tokens)]))
    return requests, gaps, tokens, json.loads(path.read_text())["runs"][0], path


def measured(requests):
    return [request for request in requests if not request["warm"]]


def test_latencies(run):
    requests, gaps, _, got, _ = run
    chosen = measured(requests)
    times = {
        "ttft": [r["first"] - r["intended"] for r in chosen if r["first"]],
        "tpot": [(r["last"] - r["first"]) / (r["output"] - 1) for r in chosen
                 if r["outcome"] == OK and r["output"] > 1],
        "e2e": [r["end"] - r["intended"] for r in chosen if r["outcome"] == OK],
        "lag": [r["sent"] - r["intended"] for r in chosen if r["outcome"] != UNSENT],
    }
    for name, values in times.items():
        check_spread(got["latencies"][name], numpy.array(values) / MS)
    check_spread(got["latencies"]["itl"], gaps / MS, tolerance=0.004)


def test_rates(run):
    requests, _, _, got, _ = run
    chosen = measured(requests)
    answered = [r for r in chosen if r["outcome"] == OK]
    start = min(r["intended"] for r in chosen)
    window = (max(r["end"] for r in chosen) - start) / 1e9
    sending = (max(r["intended"] for r in chosen) - start) / 1e9
    output = sum(r["output"] for r in answered)
    good = [r for r in answered if r["first"] - r["intended"] <= 300e6 and r["end"] - r["intended"] <= 2500e6
            and (r["output"] < 2 or (r["last"] - r["first"]) / (r["output"] - 1) <= 20.5e6)]
    assert 0 < len(good) < len(answered)  # or the limits test nothing
    streams = [r for r in chosen if r["outcome"] != UNSENT]
    peak = max(sum(s["sent"] <= r["sent"] < s["end"] for s in streams) for r in streams)
    wanted = {
        "window_s": window, "offered_per_s": (len(chosen) - 1) / sending,
        "requests_per_s": len(answered) / window, "output_tokens_per_s": output / window,
        "tokens_per_s": (output + sum(r["prompt"] for r in answered)) / window,
        "goodput_per_s": len(good) / window, "good_part": len(good) / len(chosen),
        "failed_part": 1 - len(answered) / len(chosen),
        "concurrency_mean": sum(r["end"] - r["sent"] for r in streams) / 1e9 / window, "concurrency_max": peak,
    }
    assert got["rates"].keys() == wanted.keys()
    for key, value in wanted.items():
        assert got["rates"][key] == pytest.approx(value, rel=1e-9), key
    for index, name in enumerate(OUTCOMES):
        assert got["outcomes"][name] == sum(r["outcome"] == index for r in chosen), name
    assert got["counts"]["warm_up"] == len(requests) - len(chosen) > 0
    assert got["setup"]["seed"] == "18446744073709551615"


def test_curves_are_exact_integrals(run):
    requests, _, tokens, got, _ = run
    step = got["timeline"]["step_ms"] * MS
    count = len(got["timeline"]["running"])
    edges = numpy.arange(count + 1) * step
    waiting_ends = [r["first"] or r["end"] for r in requests]
    for name, ends in (("running", [r["end"] for r in requests]), ("waiting", waiting_ends)):
        open_ns = numpy.zeros(count)
        for r, end in zip(requests, ends):
            if r["outcome"] != UNSENT:
                open_ns += numpy.clip(numpy.minimum(edges[1:], end) - numpy.maximum(edges[:-1], r["sent"]), 0, None)
        numpy.testing.assert_allclose(got["timeline"][name], open_ns / step, atol=1e-9)
    seen = numpy.histogram(tokens, bins=edges)[0] * 2 / (step / 1e9)
    numpy.testing.assert_allclose(got["timeline"]["output_tokens_per_s"], seen)
    finished = sum(r["outcome"] == OK for r in requests)
    assert sum(got["timeline"]["finished_per_s"]) * step / 1e9 == pytest.approx(finished)
    assert sum(got["timeline"]["failed_per_s"]) * step / 1e9 == pytest.approx(len(requests) - finished)


def test_histogram_is_within_half_a_percent(run):
    _, gaps, _, got, _ = run
    latency = got["latencies"]["itl"]
    lowers = numpy.array(latency["lower_ns"])
    counts = numpy.array(latency["counts"])
    for p in range(1, 100):
        rank = math.ceil(p / 100 * counts.sum())
        bucket = lowers[numpy.searchsorted(numpy.cumsum(counts), rank)]
        exact = percentile(gaps, p)
        assert bucket <= exact <= bucket * (1 + 1 / 128)


def test_long_run_is_thinned_and_folded(tmp_path):
    requests = [{"intended": i * 10**8, "sent": i * 10**8, "first": i * 10**8 + 5, "last": i * 10**8 + 5,
                 "end": i * 10**8 + 10**8, "index": i, "prompt": 1, "output": 1, "messages": 1, "outcome": 0,
                 "warm": 0, "usage": 1} for i in range(5000)]
    path = tmp_path / "run.json"
    probe("run", path, lines=lines_of(requests, [f"tokens {i * 10**8} 1" for i in range(5000)]))
    run = json.loads(path.read_text())["runs"][0]
    assert [sample[0] for sample in run["samples"]] == [i * 100.0 for i in range(0, 5000, 3)]
    assert run["timeline"]["step_ms"] == 800  # doubled until 1,024 steps cover 500 s
    assert sum(run["timeline"]["output_tokens_per_s"]) * 0.8 == pytest.approx(5000)
    assert run["timeline"]["running"] == pytest.approx([1.0] * len(run["timeline"]["running"]))


def test_percentiles_equal_numpy():
    rng = numpy.random.default_rng(3)
    rows, wanted = [], []
    for count in [1, 2, 3, 5, 9, 10, 11, 99, 100, 101, 300, 700, 1000, 3333]:
        values = rng.integers(0, 50, count) if count % 2 else rng.normal(size=count)
        for p in (0.0, 0.25, 0.5, 0.9, 0.99, 1.0):
            rows.append(f"percentile {p} {count} " + " ".join(repr(float(value)) for value in values))
            wanted.append(numpy.quantile(values, p, method="inverted_cdf"))
    got = [float(line) for line in probe("stats", lines="\n".join(rows) + "\n").stdout.split()]
    assert got == wanted


def t_cdf(t, df):
    """The density of Student's t, integrated: Gauss-Legendre in the angle, where it is smooth."""
    nodes, weights = numpy.polynomial.legendre.leggauss(400)
    end = math.atan(t / math.sqrt(df))
    angles = end / 2 * (nodes + 1)
    front = math.exp(math.lgamma((df + 1) / 2) - math.lgamma(df / 2)) / math.sqrt(math.pi)
    return 0.5 + front * end / 2 * numpy.sum(weights * numpy.cos(angles) ** (df - 1))


def test_t_quantiles():
    cases = [(p, df) for p in (0.6, 0.9, 0.975, 0.995, 0.9995) for df in (1, 1.37, 2, 3.5, 8, 30, 250.5)]
    got = probe("stats", lines="".join(f"t {p} {df}\n" for p, df in cases)).stdout.split()
    for (p, df), t in zip(cases, map(float, got)):
        assert t_cdf(t, df) == pytest.approx(p, abs=1e-10), (p, df)
    tables = {(0.975, 1): 12.706, (0.975, 2): 4.303, (0.975, 30): 2.042, (0.995, 8): 3.355}
    for case, printed in tables.items():
        assert float(got[cases.index(case)]) == pytest.approx(printed, abs=6e-4)
    mirrored = probe("stats", lines="t 0.025 7\nt 0.975 7\n").stdout.split()
    assert float(mirrored[0]) == -float(mirrored[1])


def make_side(folder, name, throughputs, **changes):
    """Files of one run each, whose only request gives the wanted requests a second."""
    paths = []
    for index, rate in enumerate(throughputs):
        end = int(1e9 / rate)
        path = folder / f"{name}{index}.json"
        request = {"intended": 0, "sent": 0, "first": end // 2, "last": end, "end": end, "index": 0, "prompt": 10,
                   "output": 11, "messages": 11, "outcome": 0, "warm": 0, "usage": 1}
        extra = [f"{key} {value}" for key, value in {"label": name, "end": end, **changes}.items()]
        probe("run", path, lines=lines_of([request], extra))
        paths.append(path)
    return paths


def compare(tmp_path, base, other, *options, code=0):
    out = tmp_path / "compared.json"
    words = [*base, "vs", *other, "--json", out, *options]
    ran = probe("compare", *words, code=code)
    return json.loads(out.read_text()), ran.stdout


def test_compare_is_welch_on_logarithms(tmp_path):
    rng = numpy.random.default_rng(4)
    a = 10 * numpy.exp(rng.normal(0, 0.02, 4))
    b = 13 * numpy.exp(rng.normal(0, 0.06, 6))
    got, text = compare(tmp_path, make_side(tmp_path, "a", a), make_side(tmp_path, "b", b), "--confidence", "0.9")
    figure = {one["name"]: one for one in got["figures"]}["requests_per_s"]
    la, lb = numpy.log(a), numpy.log(b)
    va, vb = la.var(ddof=1) / len(a), lb.var(ddof=1) / len(b)
    df = (va + vb) ** 2 / (va**2 / (len(a) - 1) + vb**2 / (len(b) - 1))
    quantile = float(probe("stats", lines=f"t 0.95 {df}\n").stdout)  # itself tested above
    half = quantile * math.sqrt(va + vb)
    middle = lb.mean() - la.mean()
    assert figure["ratio"] == pytest.approx(math.exp(middle), rel=1e-7)
    assert figure["low"] == pytest.approx(math.exp(middle - half), rel=1e-6)
    assert figure["high"] == pytest.approx(math.exp(middle + half), rel=1e-6)
    assert figure["verdict"] == "better"
    assert {one["name"]: one["verdict"] for one in got["figures"]}["e2e_p50_ms"] == "better"  # less of it
    assert "better" in text and "A  a (4 runs)" in text
    failed = {one["name"]: one for one in got["figures"]}["failed_part"]
    assert failed["ratio"] is None and failed["verdict"] == "unknown"  # 0 / 0


def test_compare_is_by_seed_where_seeds_pair(tmp_path):
    """Each seed asks something else; B is 3 % faster in each, give or take 1 %. Files come in any order."""
    rng = numpy.random.default_rng(6)
    asks = 10 * numpy.exp(rng.normal(0, 0.5, 5))
    base, other = [], []
    gains = numpy.exp(rng.normal(math.log(1.03), 0.003, 5))
    for seed, (ask, gain) in enumerate(zip(asks, gains)):
        base += make_side(tmp_path, f"a{seed}-", [ask], seed=seed)
        other += make_side(tmp_path, f"b{seed}-", [ask * gain], seed=seed)
    got, text = compare(tmp_path, base, other[::-1])
    figure = {one["name"]: one for one in got["figures"]}["requests_per_s"]
    logs = numpy.log(gains)
    half = float(probe("stats", lines="t 0.975 4\n").stdout) * logs.std(ddof=1) / math.sqrt(5)
    assert got["method"] == "pairs" and "seed by seed" in text
    assert figure["ratio"] == pytest.approx(math.exp(logs.mean()), rel=1e-7)
    assert figure["low"] == pytest.approx(math.exp(logs.mean() - half), rel=1e-6)
    assert figure["high"] == pytest.approx(math.exp(logs.mean() + half), rel=1e-6)
    assert figure["verdict"] == "better"
    got, _ = compare(tmp_path, base, [*other, other[0]])  # a seed twice: no pairs, and 3 % are lost in the noise
    assert got["method"] == "welch"
    assert {one["name"]: one for one in got["figures"]}["requests_per_s"]["verdict"] == "alike"


def test_interval_holds_the_truth_as_often_as_it_says(tmp_path):
    """No difference: of 30 comparisons of three noisy runs with three, a tenth may err."""
    rng = numpy.random.default_rng(5)
    held = 0
    for _ in range(30):
        a, b = numpy.exp(rng.normal(2, 0.1, 3)), numpy.exp(rng.normal(2, 0.1, 3))
        got, _ = compare(tmp_path, make_side(tmp_path, "a", a), make_side(tmp_path, "b", b), "--confidence", "0.9")
        figure = {one["name"]: one for one in got["figures"]}["requests_per_s"]
        held += figure["low"] <= 1 <= figure["high"]
    assert 22 <= held <= 30  # 27 are expected; 22 is three deviations away


def test_compare_one_run_has_no_interval(tmp_path):
    got, text = compare(tmp_path, make_side(tmp_path, "a", [10]), make_side(tmp_path, "b", [20, 21]))
    assert all(one["low"] is None and one["verdict"] == "unknown" for one in got["figures"])
    assert "no intervals" in text


def test_compare_has_no_interval_that_says_nothing(tmp_path):
    """One that no double holds the end of, from two runs far apart on each side and much confidence."""
    base, other = make_side(tmp_path, "a", [1, 1000], seed=1), make_side(tmp_path, "b", [1, 100000], seed=2)
    got, text = compare(tmp_path, base, other, "--confidence", "0.9999", "--html", tmp_path / "c.html")
    figure = {one["name"]: one for one in got["figures"]}["requests_per_s"]
    assert figure["ratio"] == pytest.approx(10)
    assert figure["low"] is None and figure["high"] is None and figure["verdict"] == "unknown"
    assert "too wide" in text


def test_compare_says_what_was_asked_differently(tmp_path):
    base, other = make_side(tmp_path, "a", [10, 10]), make_side(tmp_path, "b", [20, 20], rate=7, seed=9)
    got, text = compare(tmp_path, base, other)
    assert got["unlike"] == "rate_per_s, seed"
    assert "WARNING: the runs were not asked the same: rate_per_s, seed" in text
    same = [one for one in got["figures"] if one["name"] == "requests_per_s"][0]
    assert same["low"] == same["high"] == pytest.approx(2)  # runs that are equal to the bit


@pytest.mark.parametrize("words, text", [
    (["one.json"], "give A.json B.json"),
    (["a", "b", "c"], "give A.json B.json"),
    (["a", "b", "--confidence", "1"], "confidence"),
])
def test_compare_wrong_options(words, text):
    assert text in probe("compare", *words, code=2).stderr


def test_missing_and_broken_files(tmp_path):
    assert "absent.json" in probe("compare", "absent.json", "absent.json", code=1).stderr
    broken = tmp_path / "broken.json"
    broken.write_text('{"schema": "spin-bench", "version": 1, "runs": [{}]}')
    assert "runs[0].setup" in probe("report", broken, code=1).stderr
    broken.write_text('{"schema": "spin-bench", "version": 2, "runs": []}')
    assert "version: this program reads 1 .. 1" in probe("report", broken, code=1).stderr
    broken.write_text("{")
    assert "line 1" in probe("report", broken, code=1).stderr
    assert "no files" in probe("report", code=2).stderr


def test_report_prints_what_failed(run):
    path = run[4]
    text = probe("report", path).stdout
    assert "one <script>" in text and "goodput" in text and "seed 18446744073709551615" in text
    assert 'said <b>so</b> \ufffd' in text
    for name in OUTCOMES[1:]:
        assert f"\n{name} " in text, name


def test_no_request_measured(tmp_path):
    path = tmp_path / "empty.json"
    probe("run", path, lines="end 1000000000\n")
    text = probe("report", path).stdout
    assert "WARNING: nothing was measured" in text
    got, _ = compare(tmp_path, [path], [path])
    assert got["figures"] == []


def documented():
    """Keys of each table of docs/bench-schema.md by the heading above it."""
    keys, heading = {}, None
    with open(os.environ["SPIN_SCHEMA"], encoding="utf-8") as page:
        for line in page:
            if line.startswith("#"):
                heading = line.strip("# `\n")
            elif line.startswith("| `"):
                keys.setdefault(heading, []).append(line.split("`")[1])
    return keys


def test_the_schema_names_every_key(run, tmp_path):
    keys = documented()
    got = run[3]
    whole = json.loads(run[4].read_text())
    assert keys["Files of runs"] == list(whole)
    assert keys["A run"] == list(got)
    for name in ("setup", "slo", "generator", "counts", "rates", "run", "outcomes", "timeline"):
        assert keys[name] == list(got[name]), name
    latencies = list(got["latencies"])
    assert keys["latencies"] == latencies + list(got["latencies"]["ttft"])
    compared, _ = compare(tmp_path, [run[4]], [run[4]])
    assert keys["What compare writes"] == list(compared["figures"][0])
    for error in got["errors"].values():
        assert list(error) == ["count", "first"]


def test_what_is_read_is_written_again(run, tmp_path):
    """Through our own reader and writer: the same text, to the byte."""
    probe("copy", run[4], tmp_path / "copy.json")
    assert (tmp_path / "copy.json").read_bytes() == run[4].read_bytes()


def mutations(value, path=()):
    """Every place of a JSON value with what must not stand there."""
    if isinstance(value, dict):
        for key in value:
            if path != ("errors",):
                yield path + (key,), "missing"
            yield from mutations(value[key], path + (key,))
    elif isinstance(value, list):
        yield path, "text"
        if value:
            yield from mutations(value[0], path + (0,))
    else:
        if value is not None:
            yield path, "list"
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            yield path, "text"
            yield path, "negative"
        if isinstance(value, str) and path[:1] == ("setup",):
            yield path, "number"
            yield path, "long"


def change(whole, path, how):
    changed = json.loads(whole)
    place = changed["runs"][0]
    for key in path[:-1]:
        place = place[key]
    wrong = {"text": "words", "list": [], "negative": -1.5, "number": 7, "long": "x" * 5000}
    if how == "missing":
        del place[path[-1]]
    else:
        place[path[-1]] = wrong[how]
    return json.dumps(changed)


def test_a_file_with_one_thing_wrong_is_refused(run, tmp_path):
    whole = run[4].read_text()
    cases = list(mutations(json.loads(whole)["runs"][0]))
    assert len(cases) > 250
    paths = []
    for number, (path, how) in enumerate(cases):
        paths.append(tmp_path / f"{number}.json")
        paths[-1].write_text(change(whole, path, how))
    refused = probe("refuse", *paths).stdout.splitlines()
    for (path, how), line in zip(cases, refused, strict=True):
        assert line.startswith("CORRUPT "), (path, how, line)
        named = path[1] if path[0] == "latencies" and len(path) > 1 else path[0]
        assert f"runs[0].{named}." in line or path == ("latencies",), (path, how, line)
