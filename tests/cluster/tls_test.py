"""Certificates from end to end: clients to router, router to worker and back, all of them checked."""

import subprocess

import grpc
import pytest

from tests.cluster import cluster

SECRET = "a secret that the processes of this cluster share"


class Authority:
    """A certificate authority of our own, and what it signs, in a folder."""

    def __init__(self, folder, name):
        self.folder = folder
        self.ca = folder / f"{name}.pem"
        self.key = folder / f"{name}.key"
        openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
                "-days", "2", "-subj", f"/CN={name}", "-keyout", self.key, "-out", self.ca)

    def sign(self, name):
        """(certificate, key) for this machine under its loopback address."""
        certificate = self.folder / f"{name}.pem"
        key = self.folder / f"{name}.key"
        request = self.folder / f"{name}.csr"
        extensions = self.folder / f"{name}.ext"
        extensions.write_text("subjectAltName=IP:127.0.0.1,DNS:localhost\n")
        openssl("req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
                "-subj", f"/CN={name}", "-keyout", key, "-out", request)
        openssl("x509", "-req", "-days", "1", "-in", request, "-CA", self.ca, "-CAkey", self.key,
                "-CAcreateserial", "-extfile", extensions, "-out", certificate)
        return certificate, key


def openssl(*arguments):
    subprocess.run(["openssl", *map(str, arguments)], check=True, timeout=30,
                   stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def credentials(authority, pair=None):
    certificate, key = (path.read_bytes() for path in pair) if pair else (None, None)
    return grpc.ssl_channel_credentials(authority.ca.read_bytes(), key, certificate)


@pytest.fixture(scope="module", name="pki")
def certificates(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pki")
    authority = Authority(folder, "authority")
    return {"authority": authority, "stranger": Authority(folder, "stranger"),
            "router": authority.sign("router"), "worker": authority.sign("worker"),
            "client": authority.sign("client")}


def flags(prefix, authority, pair):
    return [f"--{prefix}tls-ca", str(authority.ca), f"--{prefix}tls-cert", str(pair[0]),
            f"--{prefix}tls-key", str(pair[1])]


@pytest.fixture(scope="module", name="c")
def encrypted_cluster(tmp_path_factory, pki):
    """Mutual TLS on every gRPC connection, and the cluster's secret on those between its own."""
    router_options = [*flags("", pki["authority"], pki["router"]),
                      *flags("worker-", pki["authority"], pki["router"]),
                      "--cluster-secret", SECRET]
    one = cluster.Cluster(tmp_path_factory.mktemp("cluster"), router_options=router_options)
    try:
        one.start_router()
        one.channel = cluster.open_channel(one.router.address,
                                           credentials(pki["authority"], pki["client"]))
        add_worker(one, pki, SECRET)
        one.wait_workers(1)
        yield one
    finally:
        one.stop()


def add_worker(c, pki, secret, pair="worker"):
    return c.add_worker(*flags("", pki["authority"], pki[pair]),
                        *flags("router-", pki["authority"], pki[pair]),
                        "--cluster-secret", secret, "--max-model-len", "2048",
                        credentials=credentials(pki["authority"], pki["client"]))


def test_answers(c):
    through_grpc = c.grpc("Nobody listens in.", max_tokens=30).wait()
    assert not through_grpc.error and len(through_grpc.tokens) == 30
    through_http = c.http("Nobody listens in.", max_tokens=30).wait()
    assert through_http.text == through_grpc.text
    assert c.workers[0].metrics()["spin_generated_tokens_total"] == 60


@pytest.mark.parametrize("who", ["plain", "without a certificate", "signed by a stranger",
                                 "believes a stranger"])
def test_refused_by_the_router(c, pki, who, tmp_path):
    offered = {
        "plain": None,
        "without a certificate": credentials(pki["authority"]),
        "signed by a stranger": credentials(pki["authority"],
                                            pki["stranger"].sign("client-of-a-stranger")),
        "believes a stranger": credentials(pki["stranger"], pki["client"]),
    }[who]
    channel = cluster.open_channel(c.router.address, offered)
    with pytest.raises(grpc.RpcError) as failure:
        cluster.unary(channel, "/spin.v1.Cluster/Describe", "ClusterDescribe", limit_s=5)
    assert failure.value.code() in (grpc.StatusCode.UNAVAILABLE,
                                    grpc.StatusCode.DEADLINE_EXCEEDED), failure.value
    channel.close()
    assert not c.grpc("Still here.", max_tokens=3).wait().error


def test_a_worker_without_the_secret_stays_out(c, pki):
    intruder = add_worker(c, pki, "another secret")
    try:
        cluster.wait_until(lambda: "the bearer token is not the right one" in intruder.log(), 10,
                           "it is told why")
        assert c.metric("spin_router_workers") == 1
    finally:
        intruder.stop()
        c.workers.remove(intruder)


def test_only_the_cluster_may_call_a_worker(c):
    """A certificate alone is not enough: Generate wants the cluster's token."""
    method = c.workers[0].channel.unary_stream(
        "/spin.v1.Worker/Generate",
        request_serializer=cluster.MESSAGES["GenerateRequest"].SerializeToString,
        response_deserializer=cluster.MESSAGES["GenerateResponse"].FromString)
    with pytest.raises(grpc.RpcError) as failure:
        list(method(cluster.MESSAGES["GenerateRequest"](prompt_tokens=[1, 2],
                                                        sampling={"max_tokens": 1}), timeout=5))
    assert failure.value.code() == grpc.StatusCode.UNAUTHENTICATED
