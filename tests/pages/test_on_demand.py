"""on_demand.py: however many clients come at once, there is one daemon, and each client has its answer."""

import contextlib
import os
import re
import signal
import sys

import pytest

from observed import leave_stale
from programs import EXAMPLES, Program, end

PROGRAM = str(EXAMPLES / "on_demand.py")
# Runs a client that notes the pid of each daemon that it starts.
NOTES = """
import runpy, subprocess, sys

class Popen(subprocess.Popen):
    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        with open(sys.argv[1] + ".pids", "a") as pids:
            print(self.pid, file=pids)

subprocess.Popen = Popen
del sys.argv[0]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


class Calls:
    """Clients of the daemon at `path`. Every daemon that they started is ended with the with statement."""

    def __init__(self, path):
        self._path = path

    def __enter__(self):
        return self

    def __exit__(self, *exc_info):
        for pid in self.daemons():
            gone(pid)

    def client(self, word):
        return Program([sys.executable, "-c", NOTES, PROGRAM, self._path, word])

    def daemons(self):
        """The pid of each daemon that was started."""
        with open(f"{self._path}.pids", encoding="utf-8") as pids:
            return {int(pid) for pid in pids}

    def log(self):
        """The lines of the daemons' log."""
        with open(f"{self._path}.log", encoding="utf-8") as log:
            return log.read().splitlines()


def answer(client):
    """The pid of the daemon that did what the client asked for, and the client's word."""
    pid, word = re.fullmatch(r"pid (\d+) has done: (.*)", client.line()).groups()
    assert client.wait() == (0, "")
    return int(pid), word


def gone(pid, number=signal.SIGKILL):
    """Have no process `pid`, which may have ended by itself."""
    with contextlib.suppress(ProcessLookupError):
        end(pid, number)


@pytest.fixture
def calls(path):
    with Calls(path) as calls:
        yield calls


@pytest.mark.parametrize("stale", [False, True], ids=["cold", "on a stale socket file"])
def test_of_twelve_clients_at_once_each_has_its_answer_from_the_one_daemon_and_refusals_are_logged(stale, path, calls):
    if stale:
        leave_stale(path)
    words = {f"word{i}" for i in range(12)}
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(calls.client(word)) for word in words]
        answers = [answer(client) for client in clients]
    assert {word for _, word in answers} == words
    [daemon] = {pid for pid, _ in answers}
    losers = calls.daemons() - {daemon}
    for pid in losers:
        gone(pid, 0)  # by itself
    log = calls.log()
    log.remove(f"pid {daemon} listens at {path}")
    assert {int(re.match(r"pid (\d+): .*in use", line)[1]) for line in log} == losers
    end(daemon, signal.SIGTERM)
    assert not os.path.exists(path)


def test_after_kill_9_of_the_daemon_the_next_client_starts_another(path, calls):
    pids = []
    for word in ("first", "second"):
        with calls.client(word) as client:
            pids.append(answer(client)[0])
        end(pids[-1])
    assert len({*pids}) == 2
    assert calls.daemons() == {*pids}


def test_a_client_starts_no_daemon_where_one_serves_which_is_in_a_session_of_its_own(path, calls):
    with calls.client("first") as client:
        daemon, _ = answer(client)
    assert os.getsid(daemon) == daemon
    with calls.client("second") as client:
        assert answer(client) == (daemon, "second")
    assert calls.daemons() == {daemon}


def test_a_client_whose_daemon_cannot_bind_says_where_its_log_is(path, calls):
    with open(path, "w", encoding="utf-8"), calls.client("word") as client:
        status, errors = client.wait()
    assert status == 1
    assert re.fullmatch(rf"on_demand\.py: .*{re.escape(path)}\.log\)\n", errors)
    [refusal] = calls.log()
    assert "not a socket" in refusal


def test_without_a_path_it_says_how_it_is_called():
    with Program([sys.executable, PROGRAM]) as program:
        status, errors = program.wait()
    assert status == 1
    assert "on_demand.py PATH" in errors
