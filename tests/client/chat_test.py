"""spin chat: lines through a pipe, and a person at a terminal, against a real router and worker."""

import os
import pty
import re
import select
import signal
import subprocess
import time

import pytest

from tests.client.cli import CLIENT, spin, started
from tests.cluster import cluster


@pytest.fixture(scope="module")
def c(tmp_path_factory):
    with cluster.running(tmp_path_factory.mktemp("cluster"), workers=1,
                         worker_options=("--max-model-len", "400")) as one:
        yield one


@pytest.fixture(scope="module")
def slow(tmp_path_factory):
    with cluster.running(tmp_path_factory.mktemp("slow"), workers=1, stub=True,
                         worker_options=("--tokens-per-s", "50")) as one:
        yield one


def chat(c, lines, *arguments):
    return spin("chat", "--router", c.router.address, "--stats", "--max-tokens", "8", *arguments,
                given="".join(line + "\n" for line in lines))


def prompt_tokens(done):
    assert done.returncode == 0, done.stderr
    return [int(number) for number in re.findall(r"^prompt  (\d+) tokens", done.stderr, re.M)]


def test_the_conversation_is_kept(c):
    first, second, again = prompt_tokens(chat(c, ["Hello", "And now?", "/reset", "Hello"]))
    # One token a byte: the second prompt holds the first message, an answer and the next one.
    assert second > first + len("And now?") and again == first
    assert prompt_tokens(chat(c, ["Hello", "", "  ", "/quit", "And now?"])) == [first]
    assert prompt_tokens(chat(c, ["//quit"])) == [first]  # "/quit" is as long as "Hello"


def test_the_system_message(c):
    plain, longer, without = prompt_tokens(
        chat(c, ["Hello", "/reset", "/system Be brief.", "Hello", "/reset", "/system", "Hello"]))
    assert longer > plain + len("Be brief.") - 1 and without == plain
    assert prompt_tokens(chat(c, ["Hello"], "--system", "Be brief.")) == [longer]


def test_the_oldest_turns_are_forgotten(c):
    done = chat(c, ["a" * 90] * 6)
    counts = prompt_tokens(done)
    assert len(counts) == 6 and max(counts) <= 400 - 8
    assert "(over the model's 400 tokens: the oldest turn is forgotten)" in done.stderr
    assert counts[0] < counts[1] < counts[2]  # before it is full
    # A message that alone is too long takes nothing else with it.
    done = chat(c, ["Hello", "a" * 900])
    assert done.returncode == 1
    assert "over a limit" in done.stderr and "400" in done.stderr


def test_the_last_line_may_lack_its_end(c):
    done = spin("chat", "--router", c.router.address, "--stats", "--max-tokens", "4",
                given="Hello\r\nAnd now?")
    assert len(prompt_tokens(done)) == 2


def test_a_mistake_in_a_script_ends_it(c):
    done = chat(c, ["/nonsense", "Hello"])
    assert done.returncode == 1 and "unknown command /nonsense" in done.stderr
    assert done.stdout == ""
    assert spin("chat", "--router", c.router.address, "--stop", "|||").returncode == 1
    assert spin("chat", "x").returncode == 2
    assert "/reset" in chat(c, ["/help"]).stderr


def test_the_router_dies(tmp_path):
    with cluster.running(tmp_path, workers=1, stub=True,
                         worker_options=("--tokens-per-s", "50")) as one:
        with started("chat", "--router", one.router.address, "--max-tokens", "500") as client:
            client.stdin.write("Hello\n")
            client.stdin.flush()
            client.stdout.read(1)
            one.router.kill()
            _, errors = client.communicate(timeout=20)
        assert client.returncode == 1
        assert f"the router at {one.router.address} is lost" in errors


# --- a person ---


class Terminal:
    """`spin chat` on a pseudo-terminal."""

    def __init__(self, *arguments):
        self.fd, inner = pty.openpty()
        self.process = subprocess.Popen([CLIENT, "chat", *arguments], env=cluster.CLEAN,
                                        stdin=inner, stdout=inner, stderr=inner,
                                        start_new_session=True)
        os.close(inner)
        self.seen = ""

    def read_until(self, text, limit_s=10):
        """What came since the last time, up to `text`."""
        deadline = time.monotonic() + limit_s
        while text not in self.seen:
            left = deadline - time.monotonic()
            assert left > 0 and select.select([self.fd], [], [], left)[0], self.seen
            self.seen += os.read(self.fd, 4096).decode(errors="replace")
        part, _, self.seen = self.seen.partition(text)
        return part

    def write(self, text):
        os.write(self.fd, text.encode())

    def interrupt(self):
        """Ctrl-C: the terminal would send this to its foreground process."""
        self.process.send_signal(signal.SIGINT)

    def end(self):
        self.process.kill()
        self.process.wait(10)
        os.close(self.fd)


@pytest.fixture
def terminal(slow):
    one = Terminal("--router", slow.router.address, "--max-tokens", "500")
    yield one
    one.end()


def test_a_person(terminal, slow):
    terminal.read_until("/help for help")
    terminal.read_until("> ")
    terminal.interrupt()  # at the prompt: nothing to stop
    terminal.read_until("(Ctrl-D or /quit ends)")
    terminal.read_until("> ")
    terminal.write("Hello\n")
    terminal.read_until("Hello")  # the echo
    cluster.wait_until(lambda: slow.workers[0].load().running == 1, 10)
    time.sleep(0.2)  # some ten tokens
    terminal.interrupt()
    assert re.search("[a-z]{3}", terminal.read_until("(stopped)"))
    slow.wait_idle()
    terminal.read_until("> ")
    terminal.write("/nonsense\n")
    terminal.read_until("unknown command /nonsense")
    terminal.read_until("> ")
    terminal.write("\x04")  # Ctrl-D
    assert terminal.process.wait(10) == 0


def test_sigterm_ends_an_answer_and_the_program(terminal, slow):
    terminal.read_until("> ")
    terminal.write("Hello\n")
    cluster.wait_until(lambda: slow.workers[0].load().running == 1, 10)
    terminal.process.send_signal(signal.SIGTERM)
    assert terminal.process.wait(10) == 130
    slow.wait_idle()
