"""The one-machine start, with stand-ins for Bazel, the set-up and the programs: what it starts, finds
again, stops, and what it leaves behind when somebody or something interrupts it."""

import json
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import time

import pytest

LIMIT_S = 60

SETUP = """
setup_packages() { echo packages; }
setup_llhttp() { echo llhttp; }
setup_model() { echo model; }
"""

BAZEL = """#!/bin/bash
echo "bazel $*" >>"$STUBS/calls"
case "$1" in
info) echo "$STUBS" ;;
shutdown) kill "$(<"$STUBS/server")" ;;
build)
    # Its server, as what looks for it sees it.
    python3 -c "import time; time.sleep(60)" "--workspace_directory=$PWD" >/dev/null 2>&1 &
    echo $! >"$STUBS/server"
    until grep -qF -- --workspace_directory= "/proc/$!/cmdline"; do sleep 0.01; done
    echo "[1 / 2] Compiling"
    if [[ -e $STUBS/build-hangs ]]; then
        : >"$STUBS/hanging" # from here on no child's end can swallow a signal
        exec sleep 60
    fi
    [[ ! -e $STUBS/build-fails ]] || { echo "error: no such thing"; exit 1; }
    ;;
esac
"""

# A member is up for as long as its file in $STUBS/up is there.
WORKER = """#!/usr/bin/python3
import os, signal, sys, time
def option(name):
    return sys.argv[sys.argv.index(name) + 1]
stubs = os.environ["STUBS"]
if os.path.exists(stubs + "/worker-fails"):
    sys.exit("worker: no memory")
me = f"{stubs}/up/{os.getpid()}"
def end(*_):
    if os.path.exists(me):
        os.unlink(me)
    os.unlink(option("--port-file"))
    sys.exit(0)
signal.signal(signal.SIGTERM, signal.SIG_IGN if os.path.exists(stubs + "/stubborn") else end)
if not os.path.exists(stubs + "/worker-mute"):
    open(me, "w").close()
open(option("--port-file"), "w").write(f"127.0.0.1:{os.getpid()}\\nhttp 127.0.0.1:1\\n")
while True:
    time.sleep(60)
"""

ROUTER = """#!/usr/bin/python3
import http.server, os, signal, sys
def option(name):
    return sys.argv[sys.argv.index(name) + 1]
up = os.environ["STUBS"] + "/up"
class Page(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        count = sum(os.path.exists(f"/proc/{name}") for name in os.listdir(up))
        self.send_response(200)
        self.end_headers()
        self.wfile.write(f'# TYPE spin_router_workers gauge\\nspin_router_workers{{m="x"}} {count}\\n'
                         .encode())
    def log_message(self, *_):
        pass
def end(*_):
    os.unlink(option("--port-file"))
    os._exit(0)
signal.signal(signal.SIGTERM, end)
host, port = option("--listen").split(":")
server = http.server.ThreadingHTTPServer((host, int(port)), Page)
open(option("--port-file"), "w").write(
    f"http {option('--listen')}\\ngrpc {option('--grpc-listen')}\\n")
server.serve_forever()
"""

CLIENT = """#!/bin/bash
case "$1" in
generate) echo "The code is $(cat "$STUBS/fact")."; echo "prompt 800 tokens in 2 s" >&2 ;;
status) echo "the cluster, as $* shows it" ;;
esac
"""


class Tree:
    """A copy of the script beside stand-ins, with a folder of its own."""

    def __init__(self, folder):
        self.root = folder / "tree"
        self.stubs = folder / "stubs"
        (self.stubs / "up").mkdir(parents=True)
        (self.root / "deploy" / "demo").mkdir(parents=True)
        for name in ("local", "processes"):
            shutil.copy(os.environ[f"SPIN_DEPLOY_{name.upper()}"], self.root / "deploy" / name)
        (self.root / "deploy" / "setup").write_text(SETUP)
        (self.root / "deploy" / "demo" / "document.txt").write_text("The code is 7291.\n")
        (self.root / "deploy" / "demo" / "question.txt").write_text("What is the code?\n")
        (self.stubs / "fact").write_text("7291")
        for path, text in {"bin/bazel": BAZEL, "router/spin-router": ROUTER,
                           "worker/spin-worker": WORKER, "client/spin": CLIENT,
                           "bench/load/spin-bench": "#!/bin/false\n"}.items():
            file = self.stubs / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
            file.chmod(0o755)
        self.environment = {"PATH": f"{self.stubs}/bin:/usr/bin:/bin", "STUBS": str(self.stubs),
                            "HOME": str(folder)}
        self.port = free_port()

    def begin(self, *arguments):
        return subprocess.Popen([self.root / "deploy" / "local", *map(str, arguments)], text=True,
                                env=self.environment, stdin=subprocess.DEVNULL,
                                stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                start_new_session=True)

    def run(self, *arguments):
        process = self.begin(*arguments)
        out, err = process.communicate(timeout=LIMIT_S)
        return subprocess.CompletedProcess(arguments, process.returncode, out, err)

    def up(self, *options):
        return self.run("up", "--port", self.port, *options)

    def processes(self):
        """{name: command line} of what runs with a file of this tree's state."""
        found = {}
        for path in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
            arguments = [part.decode(errors="replace") for part in read_arguments(path)]
            for argument in arguments:
                if argument.startswith(f"{self.root}/.cache/local/") and argument.endswith(".ports"):
                    found[pathlib.Path(argument).stem] = (int(path.parent.name), arguments)
        return found

    def builds(self):
        calls = self.stubs / "calls"
        return calls.read_text().count("bazel build") if calls.exists() else 0

    def change(self):
        (self.root / "source.c").write_text(f"{time.monotonic_ns()}")

    def bazel_servers(self):
        """Process ids of the stand-ins for Bazel's server."""
        sought = f"--workspace_directory={self.root}".encode()
        return [int(path.parent.name) for path in pathlib.Path("/proc").glob("[0-9]*/cmdline")
                if sought in read_arguments(path)]

    def touch(self, name):
        (self.stubs / name).touch()


def read_arguments(path):
    try:
        return path.read_bytes().split(b"\0")
    except OSError:  # it has ended meanwhile
        return []


def free_port():
    """A port with a free one 1000 above it."""
    while True:
        with socket.socket() as one, socket.socket() as other:
            one.bind(("127.0.0.1", 0))
            port = one.getsockname()[1]
            try:
                other.bind(("127.0.0.1", port + 1000))
                return port
            except (OSError, OverflowError):
                continue


@pytest.fixture
def tree(tmp_path):
    one = Tree(tmp_path)
    yield one
    for pid in [pid for pid, _ in one.processes().values()] + one.bazel_servers():
        os.kill(pid, signal.SIGKILL)


# --- up ---


def test_up_starts_all_and_prints_what_to_do_with_it(tree):
    done = tree.up()
    assert done.returncode == 0, done.stderr
    running = tree.processes()
    assert sorted(running) == ["router", "worker-1", "worker-2"]
    assert "Answer: The code is 7291." in done.stdout and "prompt 800 tokens" in done.stdout
    for said in (f"http://127.0.0.1:{tree.port}/v1", f"127.0.0.1:{tree.port + 1000}",
                 f"http://127.0.0.1:{tree.port}/metrics", f"http://127.0.0.1:{tree.port}/health",
                 "deploy/local down"):
        assert said in done.stdout
    assert [line[:5] for line in done.stdout.splitlines()[:6]] == [f"[{n}/6]" for n in range(1, 7)]
    router, worker = running["router"][1], running["worker-2"][1]
    assert router[router.index("--listen") + 1] == f"127.0.0.1:{tree.port}"
    assert worker[worker.index("--router") + 1] == f"127.0.0.1:{tree.port + 1000}"
    assert worker[worker.index("--threads") + 1] == str(max(os.cpu_count() // 2, 1))
    # One id in the cluster for each: free ports, and a session of its own, away from this terminal.
    assert worker[worker.index("--listen") + 1] == "127.0.0.1:0"
    assert os.getsid(running["worker-1"][0]) == running["worker-1"][0]


def test_the_curl_line_can_be_pasted(tree):
    done = tree.up("--workers", 1)
    line = re.search(r"curl (.*?\}')\n", done.stdout, re.DOTALL)[1]
    shown = subprocess.run(["bash", "-c", f"printf '%s|' {line}"], text=True, check=True,
                           stdout=subprocess.PIPE).stdout.split("|")
    assert shown[0] == f"http://127.0.0.1:{tree.port}/v1/chat/completions"
    body = json.loads(shown[shown.index("-d") + 1])
    assert body["model"] == "SmolLM2-135M-Instruct.Q4_1"
    assert body["messages"][0]["role"] == "user"


def test_only_a_bazel_server_that_was_there_stays(tree):
    assert tree.up().returncode == 0
    assert "bazel shutdown" in (tree.stubs / "calls").read_text()
    assert tree.bazel_servers() == []
    with subprocess.Popen([tree.stubs / "bin" / "bazel", "build"], cwd=tree.root,
                          env=tree.environment):
        pass
    (server,) = tree.bazel_servers()
    tree.change()
    assert tree.run("up").returncode == 0
    assert tree.builds() == 3 and server in tree.bazel_servers()


def test_what_has_not_changed_is_not_built_again(tree):
    assert tree.up().returncode == 0
    assert tree.run("up").returncode == 0
    assert tree.builds() == 1
    tree.change()
    assert tree.run("up").returncode == 0
    assert tree.builds() == 2
    (tree.root / "source.c").unlink()
    assert tree.run("up").returncode == 0
    assert tree.builds() == 3
    tree.change()
    tree.touch("build-fails")
    assert tree.run("up").returncode == 1
    (tree.stubs / "build-fails").unlink()
    assert tree.run("up").returncode == 0  # what failed is not taken for built
    assert tree.builds() == 5


def test_up_again_starts_what_is_missing_and_nothing_else(tree):
    assert tree.up().returncode == 0
    before = tree.processes()
    os.kill(before["worker-1"][0], signal.SIGKILL)
    done = tree.run("up")  # the options in force are remembered
    assert done.returncode == 0, done.stderr
    after = tree.processes()
    assert sorted(after) == ["router", "worker-1", "worker-2"]
    assert after["router"] == before["router"] and after["worker-2"] == before["worker-2"]
    assert after["worker-1"][0] != before["worker-1"][0]


def test_up_refuses_to_be_something_else_than_what_runs(tree):
    assert tree.up().returncode == 0
    before = tree.processes()
    done = tree.up("--workers", 3)
    assert done.returncode == 1
    assert "--workers 2" in done.stderr and "deploy/local down" in done.stderr
    assert tree.processes() == before


def test_a_wrong_answer_is_a_failure_and_nothing_stays(tree):
    (tree.stubs / "fact").write_text("1234")
    done = tree.up()
    assert done.returncode == 1 and "lacks 7291" in done.stderr
    assert tree.processes() == {}


@pytest.mark.parametrize("reason, said", [("build-fails", "error: no such thing"),
                                          ("worker-fails", "worker: no memory")])
def test_a_failure_shows_its_reason_and_leaves_nothing(tree, reason, said):
    tree.touch(reason)
    done = tree.up()
    assert done.returncode == 1
    assert said in done.stderr and str(tree.root) in done.stderr  # where the whole log is
    assert tree.processes() == {}


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("what, ready", [
    ("build-hangs", lambda tree: (tree.stubs / "hanging").exists()),
    ("worker-mute", lambda tree: len(tree.processes()) == 3),
])
def test_interrupted_it_leaves_nothing_half_started(tree, what, ready, end):
    tree.touch(what)
    process = tree.begin("up", "--port", tree.port)
    deadline = time.monotonic() + LIMIT_S
    while not ready(tree):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.killpg(process.pid, end)  # as a terminal does
    process.communicate(timeout=LIMIT_S)
    assert process.returncode == 128 + end
    assert tree.processes() == {} and tree.bazel_servers() == []
    (tree.stubs / what).unlink()
    assert tree.up().returncode == 0  # nor a lock


def test_what_ran_before_survives_a_failure(tree):
    assert tree.up().returncode == 0
    before = tree.processes()
    os.kill(before.pop("worker-2")[0], signal.SIGKILL)
    (tree.stubs / "fact").write_text("1234")
    assert tree.up().returncode == 1
    assert tree.processes() == before


# --- ports ---


@pytest.mark.parametrize("above, what", [(0, "HTTP"), (1000, "gRPC")])
def test_a_taken_port_is_explained_before_anything_is_built(tree, above, what):
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", tree.port + above))
        holder.listen()
        done = tree.up()
    assert done.returncode == 1
    assert f"port {tree.port + above}, for the router's {what}, is taken by process {os.getpid()}" \
        in done.stderr
    assert "--port" in done.stderr
    assert not (tree.stubs / "calls").exists() and tree.processes() == {}


@pytest.mark.parametrize("options, said", [
    (["--port", "0"], "--port 0: must be 1 to"), (["--port", "64536"], "--port 64536: must be 1 to"),
    (["--port", "80x"], "--port 80x"), (["--workers", "0"], "--workers 0: must be 1 to 64"),
    (["--workers", "65"], "--workers 65: must be 1 to 64"), (["--workers", "-1"], "--workers -1"),
    (["--model", "/nowhere.gguf"], "--model /nowhere.gguf: no such file"),
    (["--device", "gpu"], "--device gpu: must be auto, cuda or cpu"),
    (["--sparse-attention", "fast"], "--sparse-attention fast: must be dense, quest or shadowkv"),
])
def test_option_errors_name_the_option_and_the_limit(tree, options, said):
    done = tree.run("up", *options)
    assert done.returncode == 1 and said in done.stderr


@pytest.mark.parametrize("arguments", [[], ["sideways"], ["up", "--port"], ["up", "--fast", "1"],
                                       ["down", "now"], ["status", "x"], ["logs", "-f", "a", "b"]])
def test_usage(tree, arguments):
    done = tree.run(*arguments)
    assert done.returncode == 2 and "deploy/local up" in done.stderr


NVIDIA_SMI = """#!/bin/bash
[[ $1 == --list-gpus ]] && printf 'GPU %d: NVIDIA H200 (UUID: GPU-x)\\n' 0 1 2
"""


def visible(pid):
    """The GPUs that a process may see; None: all."""
    for entry in pathlib.Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
        if entry.startswith(b"CUDA_VISIBLE_DEVICES="):
            return entry.partition(b"=")[2].decode()
    return None


def test_workers_run_where_they_were_told_to(tree):
    assert tree.up("--device", "cpu", "--workers", 1).returncode == 0
    pid, arguments = tree.processes()["worker-1"]
    assert arguments[arguments.index("--device") + 1] == "cpu" and visible(pid) is None
    done = tree.up("--device", "cuda")
    assert done.returncode == 1 and "up with --device cpu" in done.stderr


@pytest.mark.parametrize("given, wanted", [(None, ["0", "1", "2"]), ("2", ["2"]),
                                           ("2,GPU-x", ["2", "GPU-x"]), ("1,-1,0", ["1"])])
def test_each_worker_has_a_gpu_of_its_own(tree, given, wanted):
    if given is not None:
        tree.environment["CUDA_VISIBLE_DEVICES"] = given
    smi = tree.stubs / "bin" / "nvidia-smi"
    smi.write_text(NVIDIA_SMI)
    smi.chmod(0o755)
    assert tree.up().returncode == 0
    running = {name: process for name, process in tree.processes().items() if name != "router"}
    assert {name: visible(pid) for name, (pid, _) in running.items()} == \
        {f"worker-{number}": gpu for number, gpu in enumerate(wanted, 1)}
    assert all(arguments[arguments.index("--device") + 1] == "auto"
               for _, arguments in running.values())


def test_workers_run_the_algorithm_that_was_asked_for(tree):
    def algorithms():
        return {arguments[arguments.index("--sparse-attention") + 1]
                for name, (_, arguments) in tree.processes().items() if name != "router"}

    assert tree.up("--sparse-attention", "quest").returncode == 0
    assert algorithms() == {"quest"}
    assert tree.up().returncode == 0  # it is remembered
    done = tree.up("--sparse-attention", "dense")
    assert done.returncode == 1 and "up with --sparse-attention quest" in done.stderr
    assert tree.run("down").returncode == 0
    assert tree.up().returncode == 0
    assert algorithms() == {"dense"}


# --- down, status, logs ---


def test_down_stops_all_and_can_be_repeated(tree):
    assert tree.up("--workers", 3).returncode == 0
    assert sorted(tree.processes()) == ["router", "worker-1", "worker-2", "worker-3"]
    done = tree.run("down")
    assert done.returncode == 0 and "worker-3" in done.stdout
    assert tree.processes() == {}
    assert tree.run("down").stdout == "not running\n"
    assert tree.up("--workers", 1).returncode == 0  # not bound to what ran then
    assert sorted(tree.processes()) == ["router", "worker-1"]


def test_down_kills_what_does_not_stop(tree):
    script = tree.root / "deploy" / "local"
    script.write_text(script.read_text().replace("stop_limit_s=20", "stop_limit_s=1"))
    tree.touch("stubborn")
    assert tree.up("--workers", 1).returncode == 0
    done = tree.run("down")
    assert done.returncode == 0 and "killing it" in done.stderr
    assert tree.processes() == {}


def test_a_number_that_is_somebody_elses_by_now_is_left_alone(tree):
    state = tree.root / ".cache" / "local"
    state.mkdir(parents=True)
    (state / "worker-1.pid").write_text(str(os.getpid()))
    assert tree.run("down").returncode == 0  # and we live


def test_status_shows_processes_and_the_cluster(tree):
    assert tree.run("status").returncode == 3
    assert tree.up().returncode == 0
    done = tree.run("status")
    assert done.returncode == 0
    rows = {line.split()[0]: line for line in done.stdout.splitlines() if line}
    assert f"grpc 127.0.0.1:{tree.port + 1000}, http 127.0.0.1:{tree.port}" in rows["router"]
    pid = tree.processes()["worker-2"][0]
    assert f" {pid} " in rows["worker-2"] and f"grpc 127.0.0.1:{pid}" in rows["worker-2"]
    assert "the cluster, as status --router" in done.stdout
    os.kill(pid, signal.SIGKILL)
    done = tree.run("status")
    assert done.returncode == 3 and re.search(r"worker-2 +down", done.stdout)


def test_logs(tree):
    assert tree.run("logs").returncode == 1
    assert tree.up("--workers", 1).returncode == 0
    (tree.root / ".cache" / "local" / "worker-1.log").write_text("hello\n")
    assert "hello" in tree.run("logs", "worker-1").stdout
    assert "router.log" in tree.run("logs").stdout
    missing = tree.run("logs", "worker-9")
    assert missing.returncode == 1 and "worker-9" in missing.stderr
    process = tree.begin("logs", "-f", "worker-1")
    assert process.stdout.readline() == "hello\n"
    process.kill()
    process.communicate(timeout=LIMIT_S)
