"""The programs of bench/gpu/model from end to end on the CPU, with shapes that take seconds."""

import os
import pathlib
import re
import shutil
import struct
import subprocess

import pytest

from bench.gpu import tables

DECODE_STEP = os.environ["SPIN_DECODE_STEP"]
MODEL_CHECK = os.environ["SPIN_MODEL_CHECK"]
PREFILL = os.environ["SPIN_PREFILL"]
WORDS = ("the", "tide", "came", "in", "before", "we", "had", "found", "a", "lamp", "for", "boat")


def run(program, *options, code=0, timeout=120):
    """Its output; options are those of the command line."""
    done = subprocess.run([program, *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                          timeout=timeout)
    assert done.returncode == code, done.stdout[-4000:] + done.stderr[-4000:]
    return done.stdout, done.stderr


def results(output, kind):
    """The RESULT lines of one kind, as dictionaries."""
    found = []
    for line in output.splitlines():
        if line.startswith(f"RESULT {kind} "):
            found.append(dict(re.findall(r'(\w+)=("[^"]*"|\S+)', line)))
    return found


def tiny(*options):
    return ("--device", "cpu", "--threads", "2", "--model", "random:tiny-qwen3", *options)


def decode(*options, **arguments):
    return run(DECODE_STEP, *tiny("--contexts", "512,1024", "--batches", "1,3", "--budget", "128", "--warm", "10",
                                  "--steps", "8", *options), **arguments)[0]


def test_decode_rows(tmp_path):
    output = decode("--overlaps", "50,90")
    rows = results(output, "decode")
    assert len(rows) == 2 * 2 * (1 + 2 + 2)
    for row in rows:
        assert float(row["ms"]) > 0 and float(row["floor_ms"]) > 0
        assert float(row["ms_p10"]) <= float(row["ms"]) <= float(row["ms_p90"])
    for row in rows:
        if row["algorithm"] != "dense":
            assert float(row["hit"]) + 0.01 >= float(row["overlap"]) / 100
            assert float(row["speedup"]) > 0
    # Where slots are few a smaller overlap misses more. 1024 tokens are 128 pages; a step takes 21 of them.
    misses = {row["overlap"]: float(row["miss_mib"]) for row in results(decode("--overlaps", "50,90", "--slots", "2"),
              "decode") if row["algorithm"] == "shadowkv" and row["context"] == "1024" and row["batch"] == "3"}
    assert misses["50"] > 2 * misses["90"] > 0
    assert len(results(output, "gather")) == len(results(output, "select")) == 2 * 2 * 2
    assert "CHECK BAD" not in output
    check_tables(output, tmp_path)


def check_tables(output, folder):
    """Every row of the log is one of the table."""
    log = folder / "decode.log"
    log.write_text(output)
    decode_rows = tables.decode_table(tables.read([log])["decode"]).splitlines()
    assert len(decode_rows) == 4 + len(results(output, "decode")) + 1
    wanted = results(output, "decode")[1]
    assert f"| {wanted['context']} | 1 | shadowkv | 50 % | {float(wanted['hit']):.3f} | 6.0 |" in decode_rows[5]


def test_decode_says_what_it_left_out():
    output = decode("--limit", "1s", "--algorithms", "dense", "--steps", "2000", "--batches", "3,3,3,3,3,3,3,3")
    assert results(output, "skipped")
    assert int(results(output, "decode_step")[0]["skipped"]) == len(results(output, "skipped"))


def test_frames_are_shared_where_memory_is_short():
    output = decode("--algorithms", "shadowkv", "--contexts", "8192", "--batches", "3", "--host-memory", "1MiB",
                    "--overlaps", "90", "--no-parts")
    rows = results(output, "decode")
    assert [row["aliased"] for row in rows] == ["yes"]
    rows = results(decode("--algorithms", "shadowkv", "--contexts", "512", "--batches", "1", "--overlaps", "90"),
                   "decode")
    assert [row["aliased"] for row in rows] == ["no"]


def test_ablation():
    """Of a list's 38 pages the rows of the first two hold little more; those of the last hold five times more."""
    rows = results(decode("--ablation", "--algorithms", "shadowkv", "--contexts", "8192", "--batches", "3", "--budget",
                          "256", "--ablation-returns", "40", "--warm", "24"), "ablation")
    assert [row["step"] for row in rows] == ["base", "mandatory", "buffering"]
    base, mandatory, buffering = rows
    assert float(base["hit"]) + 0.1 < float(mandatory["hit"]) < float(buffering["hit"]) - 0.01
    assert float(base["miss_mib"]) > float(mandatory["miss_mib"]) > float(buffering["miss_mib"]) > 0


def varint(value):
    return bytes([value & 127 | 128]) + varint(value >> 7) if value > 127 else bytes([value])


def write_trace(path, tokens, steps, even):
    """shadowkv's choices of a row: 16 chunks of 8 tokens in a run, and those that it takes anyway. From step to step
    the run stays where it is, or moves on by its own length."""
    shape = struct.pack("<8s8I32s", b"SPINTRC", 1, 8, 0, 2, 1, 1, steps, 0, b"shadowkv")
    document = struct.pack("<32s2I", b"made up", tokens, 0)
    out = [shape, document]
    for step in range(steps):
        visible = tokens + step + 1
        local, newest = visible // 8 - 4, (visible - 1) // 8
        begin = 1 + 16 * (0 if even else step % 3)
        lists = varint(2 if begin == 1 else 3)
        lists += varint(0) + varint(17) if begin == 1 else varint(0) + varint(1) + varint(begin - 1) + varint(16)
        lists += varint(local - begin - 16) + varint(newest - local + 1)
        out += [varint(1), varint(local), lists * 2]
    path.write_bytes(b"".join(out))
    return str(path)


def test_recorded_choices(tmp_path):
    """A choice that stays misses the pages of new tokens at most; one that moves misses where slots are few."""
    rows = []
    for name, even in (("even", True), ("moving", False)):
        path = write_trace(tmp_path / name, 1024, 32, even)
        rows += results(decode("--trace", path, "--algorithms", "shadowkv", "--batches", "2", "--slots", "1.5"),
                        "decode")
    assert [(row["choices"], row["context"]) for row in rows] == [("trace", "1024")] * 2
    assert float(rows[0]["miss_mib"]) < 0.01 < float(rows[1]["miss_mib"])
    path = write_trace(tmp_path / "short", 1024, 17, True)
    errors = run(DECODE_STEP, *tiny("--trace", path, "--algorithms", "shadowkv", "--warm", "10", "--steps", "8"),
                 code=1)[1]
    assert "17 steps" in errors
    assert "of shadowkv: must be quest's" in run(DECODE_STEP, *tiny("--trace", path, "--algorithms", "quest"),
                                                 code=1)[1]


def test_the_same_seed_has_the_same_misses():
    misses = [[row["miss_mib"] for row in results(decode("--overlaps", "75", "--seed", seed), "decode")]
              for seed in ("5", "5", "6")]
    assert misses[0] == misses[1] != misses[2]


def test_prefill():
    output, _ = run(PREFILL, *tiny("--tokens", "600", "--chunk", "128", "--super-chunk", "256", "--rounds", "2"))
    ways = {row["way"]: row for row in results(output, "prefill")}
    assert set(ways) == {"resident", "without_index", "arena"}
    assert all(float(row["tokens_per_s"]) > 0 and float(row["gemm_tflops"]) > 0 for row in ways.values())
    assert len(results(output, "prefill_index_offload")) == 1


@pytest.fixture(scope="module", name="text")
def make_text(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text(" ".join(WORDS[i * i % 7 + i % 6] for i in range(1500)))
    return path


def check_model(text, pool, code):
    return run(MODEL_CHECK, *tiny("--text", str(text), "--positions", "300", "--steps", "40", "--long-tokens",
                                  "2000", "--long-steps", "60", "--budget", "32", "--pool", pool), code=code)[0]


def test_model_check(text):
    output = check_model(text, "80", 0)
    assert "BAD" not in output
    rows = [row for row in results(output, "model_check") if "run" in row]
    compared = {(row["run"], row["reference"]): float(row["top1"]) for row in rows if "reference" in row}
    assert set(compared) == {(a, b) for a in ("prefill", "decode") for b in ("float32", "rounded")}
    assert min(compared.values()) >= 99
    assert all(0 < int(row["clear_agreed"]) == int(row["clear"]) <= int(row["positions"]) for row in rows
               if "reference" in row)
    found = {row["run"]: row for row in rows}
    for algorithm in ("shadowkv", "quest"):
        assert int(found[f"pool_{algorithm}"]["evictions"]) > 0
        assert int(found[f"verify_{algorithm}"]["retrieved"]) > 0
    total = [row for row in results(output, "model_check") if "checks" in row]
    assert len(total) == 1 and int(total[0]["checks"]) >= 25 and total[0]["failed"] == "0"


def test_a_failed_check_fails_the_program(text):
    """A pool for every page retrieves and evicts nothing: the comparison would say nothing."""
    output = check_model(text, "100", 1)
    assert re.search(r"CHECK pool_shadowkv +BAD +pages were evicted", output)
    assert [row["failed"] for row in results(output, "model_check") if "failed" in row] != ["0"]


def pieces(root, *arguments, code=0):
    done = subprocess.run([str(root / "bench/gpu/model_pieces"), *arguments], stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True, timeout=60)
    assert done.returncode == code, done.stdout
    return done.stdout


def test_model_pieces(tmp_path):
    """Carried one by one, in any order; a piece that changed on the way is refused."""
    here, there = tmp_path / "here", tmp_path / "there"
    for root in (here, there):
        (root / "bench/gpu").mkdir(parents=True)
        shutil.copy("bench/gpu/model_pieces", root / "bench/gpu/model_pieces")
        (root / ".gpu").mkdir()
    model = pathlib.Path(".cache/model/m.gguf")
    (here / model).parent.mkdir(parents=True)
    (tmp_path / "m.gguf").write_bytes(os.urandom(100_001))
    (here / model).symlink_to(tmp_path / "m.gguf")
    pieces(here, "split", str(model))
    pieces(there, "take", code=1)
    shutil.copy(here / ".gpu/model.sha256", there / ".gpu")
    shutil.copy(here / ".gpu/model.part1", there / ".gpu")
    assert "waiting for: model.part0" in pieces(there, "take")
    (there / ".gpu/model.part0").write_bytes(b"x" + (here / ".gpu/model.part0").read_bytes()[1:])
    assert "not what was split" in pieces(there, "take", code=1)
    assert not (there / model).exists()
    shutil.copy(here / ".gpu/model.part0", there / ".gpu")
    assert "whole" in pieces(there, "take")
    assert (there / model).read_bytes() == (here / model).read_bytes()
    assert "whole" in pieces(there, "take")


@pytest.mark.parametrize("program, options, words", [
    (DECODE_STEP, ["--contexts", "100"], "100"),
    (DECODE_STEP, ["--contexts", "512", "--algorithms", "dens"], "dens"),
    (DECODE_STEP, ["--batches", "0"], "--batches"),
    (PREFILL, ["--algorithm", "none"], "none"),
    (MODEL_CHECK, ["--positions", "10", "--steps", "10"], "--steps"),
    (MODEL_CHECK, ["--text", "/nowhere"], "/nowhere"),
])
def test_bad_options_are_named(program, options, words):
    _, errors = run(program, *tiny(*options), code=1)
    assert words in errors


@pytest.mark.parametrize("program", [DECODE_STEP, PREFILL, MODEL_CHECK])
def test_no_gpu_is_said(program, text):
    """Where there is no GPU, or no nvcc was found, --device cuda fails by name."""
    if os.path.exists("/dev/nvidia0"):
        pytest.skip("there is a GPU")
    options = ["--device", "cuda", "--model", "random:tiny"] + (["--text", str(text)] if program == MODEL_CHECK else [])
    extra = ["--positions", "60", "--steps", "4", "--long-tokens", "60", "--long-steps", "4"]
    _, errors = run(program, *options, *(extra if program == MODEL_CHECK else []), code=1)
    assert "UNSUPPORTED" in errors
