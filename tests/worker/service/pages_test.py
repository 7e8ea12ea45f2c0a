"""The worker's HTTP pages as a scraper and a probe see them."""

import signal

import grpc
import pytest

from tests.worker.service.prometheus import parse
from tests.worker.service.spin_grpc import collect, request, run, running, wait_until

NAME = 'a "model"\\with\nall'  # what has to be escaped in a label


@pytest.fixture(scope="module")
def worker(tmp_path_factory):
    with running(tmp_path_factory.mktemp("worker"), "--served-model-name", NAME,
                 "--cluster-secret", "hush") as one:
        yield one


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    with running(tmp_path_factory.mktemp("plain")) as one:
        yield one


def metrics(worker):
    status, headers, text = worker.get("/metrics")
    assert status == 200
    assert headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    return parse(text)


# --- the checker itself: it must be able to fail ---

HEAD = "# HELP x_total h\n# TYPE x_total counter\n"


@pytest.mark.parametrize("text", [
    HEAD + "x_total 1", HEAD, HEAD + "x_total 1\nx_total 2\n", HEAD + "x_total -1\n",
    HEAD + 'x_total{a="b\n"} 1\n', HEAD + 'x_total{a="\\x"} 1\n', HEAD + 'x_total{a="1",a="2"} 1\n',
    HEAD + "x_total one\n", HEAD + "y_total 1\n", "x_total 1\n", HEAD + "x_total 1\n" + HEAD,
    "# HELP x h\n# TYPE x counter\nx 1\n", "# TYPE x_total counter\nx_total 1\n",
    "# HELP h h\n# TYPE h histogram\nh_bucket{le=\"1\"} 2\nh_bucket{le=\"+Inf\"} 1\nh_sum 1\nh_count 1\n",
    "# HELP h h\n# TYPE h histogram\nh_bucket{le=\"1\"} 1\nh_sum 1\nh_count 1\n",
    "# HELP h h\n# TYPE h histogram\nh_bucket{le=\"+Inf\"} 1\nh_sum 1\nh_count 2\n",
], ids=lambda _: "")
def test_the_checker_refuses(text):
    with pytest.raises((AssertionError, KeyError)):
        parse(text)


def test_the_checker_accepts_the_formats_own_forms():
    families = parse("# a comment\n\n# HELP x_total a\\\\b\n# TYPE x_total counter\n"
                     'x_total{a="\\"\\\\\\n",} 1.5e3 1395066363000\nx_total 3\n')
    assert families["x_total"].value(a='"\\\n') == 1500


# --- /metrics ---


def test_every_line_is_in_the_format_and_carries_the_model(worker):
    families = metrics(worker)
    for family in families.values():
        assert all(dict(labels)["model_name"] == NAME for _, labels in family.samples), family.name
    assert families["spin_kv_pool_bytes"].value() > 0
    tables = families["spin_kv_table_bytes"]  # a family with labels of its own beside the model's
    assert len(tables.samples) > 1 and tables.value(table="slab_lists", tier="hbm") > 0
    assert families["spin_worker_draining"].value() == 0


def test_counts_of_requests_and_calls(plain):
    before = metrics(plain)
    collect(plain.generate(request(max_tokens=5)))
    with pytest.raises(grpc.RpcError):
        list(plain.generate(request(prompt=[-1])))
    after = metrics(plain)

    def added(name, **labels):
        return after[name].value(**labels) - before[name].value(**labels)

    assert added("spin_requests_total", reason="length") == 1
    assert added("spin_prompt_tokens_total") == 3
    assert added("spin_generated_tokens_total") == 5
    assert added("spin_time_to_first_token_seconds") == 1
    assert added("spin_worker_rpc_calls_total") == 2
    assert 1 <= added("spin_worker_rpc_messages_sent_total") <= 6
    assert after["spin_worker_rpc_calls_open"].value() == 0


def test_names_that_other_systems_read(plain):
    stream = plain.generate(request(max_tokens=1500))
    next(stream)
    plain.wait_running()
    families = metrics(plain)
    assert families["vllm:num_requests_running"].value(engine="0") == 1
    assert families["vllm:num_requests_waiting"].value() == 0
    usage = families["vllm:kv_cache_usage_perc"].value()
    assert 0 < usage <= 1
    assert usage == pytest.approx(families["spin_kv_host_used_bytes"].value() /
                                  families["spin_kv_host_pool_bytes"].value(), rel=0.5)
    (_, labels), = families["vllm:cache_config_info"].samples
    blocks = int(dict(labels)["num_gpu_blocks"])
    assert dict(labels)["block_size"] == "128"
    assert blocks * 128 == plain.describe().capacity.kv_tokens
    (_, labels), = families["spin_device_info"].samples
    assert dict(labels)["device"] == plain.describe().device
    assert dict(labels)["ops"] == plain.describe().backend
    (_, labels), = families["vllm:lora_requests_info"].samples
    assert dict(labels)["running_lora_adapters"] == dict(labels)["waiting_lora_adapters"] == ""
    stream.cancel()
    plain.wait_idle()


# The last bucket that has to hold them all: 100 ms, or the next bound above one prefill unit here.
FREED_LIMIT_S = 0.1


def test_what_a_client_held_is_free_soon_after_it_left(plain):
    before = metrics(plain)["spin_worker_client_gone_seconds"]
    for tokens in (1800, 3, 700, 3):  # in prefill, and in decode
        stream = plain.generate(request([9] * tokens, max_tokens=200))
        if tokens == 3:
            next(stream)
        plain.wait_running()
        assert metrics(plain)["spin_kv_used_bytes"].value() > 0
        stream.cancel()
        wait_until(lambda: metrics(plain)["spin_kv_used_bytes"].value() == 0, 2)
    after = metrics(plain)["spin_worker_client_gone_seconds"]
    assert after.value() - before.value() == 4
    spent = sum(value for (name, _), value in after.samples.items() if name.endswith("_sum")) - \
        sum(value for (name, _), value in before.samples.items() if name.endswith("_sum"))
    print(f"a client gone to its pages free: {spent / 4 * 1e3:.1f} ms on average")

    def within(family):
        return next(value for (_, labels), value in family.samples.items()
                    if dict(labels).get("le") == str(FREED_LIMIT_S))

    assert within(after) - within(before) == 4


# --- /health, /config and what is not there ---


def test_health_and_config(worker):
    assert worker.get("/health")[::2] == (200, '{"status":"ok"}\n')
    status, _, text = worker.get("/config")
    assert status == 200
    assert 'cluster-secret: "***"' in text and "hush" not in text
    assert "max-num-seqs: 32 # default" in text
    assert "sparse-attention: dense # default" in text
    status, _, text = worker.get("/nothing")
    assert status == 404 and "/metrics" in text


def test_health_says_that_it_drains(tmp_path):
    with running(tmp_path, "--threads", "1") as one:
        stream = one.generate(request(max_tokens=60))
        next(stream)
        one.process.send_signal(signal.SIGTERM)
        wait_until(lambda: one.get("/health")[0] == 503, 1)
        assert one.get("/health")[2] == '{"status":"draining"}\n'
        assert metrics(one)["spin_worker_draining"].value() == 1
        list(stream)
        assert one.process.wait(10) == 0


def test_no_pages(tmp_path):
    with running(tmp_path, "--http-listen", "off", model="random:tiny") as one:
        assert one.http_address is None
        assert "http=off" in one.log()


def test_a_taken_port_names_the_option(worker):
    taken = run("--model", "random:tiny", "--listen", "127.0.0.1:0",
                "--http-listen", worker.http_address)
    assert taken.returncode == 1
    assert worker.http_address in taken.stderr and "--http-listen" in taken.stderr
