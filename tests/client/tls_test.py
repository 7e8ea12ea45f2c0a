"""The command's --tls options against a router that asks for certificates on both sides."""

import subprocess

import pytest

from tests.client.cli import spin
from tests.cluster import cluster


def self_signed(folder, name):
    """(certificate, key) of somebody on this machine, who is his own authority."""
    certificate, key = folder / f"{name}.pem", folder / f"{name}.key"
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt",
                    "ec_paramgen_curve:P-256", "-nodes", "-days", "2", "-subj", f"/CN={name}",
                    "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out",
                    str(certificate)], check=True, timeout=30, stdin=subprocess.DEVNULL,
                   stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    return str(certificate), str(key)


@pytest.fixture(scope="module")
def pki(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pki")
    return {name: self_signed(folder, name) for name in ("router", "client", "stranger")}


@pytest.fixture(scope="module")
def c(tmp_path_factory, pki):
    certificate, key = pki["router"]
    options = ("--tls-cert", certificate, "--tls-key", key, "--tls-ca", pki["client"][0])
    with cluster.running(tmp_path_factory.mktemp("cluster"), workers=0,
                         router_options=options) as one:
        yield one


def status(c, *options):
    return spin("status", "--router", c.router.address, "--connect-timeout", "500ms", *options)


def test_both_know_each_other(c, pki):
    certificate, key = pki["client"]
    done = status(c, "--tls-ca", pki["router"][0], "--tls-cert", certificate, "--tls-key", key)
    assert done.returncode == 0, done.stderr
    assert "0 members" in done.stdout


@pytest.mark.parametrize("who", ["plain", "no certificate", "a stranger", "believes a stranger"])
def test_others_are_refused(c, pki, who):
    certificate, key = pki["stranger" if who == "a stranger" else "client"]
    believed = pki["stranger" if who == "believes a stranger" else "router"][0]
    options = ["--tls-ca", believed] if who != "plain" else []
    if who not in ("plain", "no certificate"):
        options += ["--tls-cert", certificate, "--tls-key", key]
    done = status(c, *options)
    assert done.returncode == 1
    assert f"the router at {c.router.address}" in done.stderr


def test_a_certificate_needs_its_key(c, pki):
    done = status(c, "--tls-ca", pki["router"][0], "--tls-cert", pki["client"][0])
    assert done.returncode == 1 and "key" in done.stderr
