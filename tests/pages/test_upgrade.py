"""upgrade.py replaces itself without a gap: no client is refused, no request is lost, nobody else gets the path."""

import collections
import contextlib
import os
import re
import select
import signal
import sys
import threading

import pytest

import unixsock
from children import PATIENCE, exit_of
from observed import BOUND
from programs import EXAMPLES, Program, WithoutPause, answer, end, served_by, slow_request

UPGRADE = EXAMPLES / "upgrade.py"


@contextlib.contextmanager
def serving(path, program=UPGRADE):
    """upgrade.py, listening at `path`. Its later versions are in its process group, and end with it."""
    with Program([sys.executable, str(program), path]) as server:
        assert server.line() == f"pid {server.pid} listens at {path}"
        yield server


def upgraded(server, version):
    """Have the running `version` replaced; the pid of the next one. What they print comes in this order."""
    os.kill(version, signal.SIGUSR2)
    new = int(re.fullmatch(r"pid (\d+) listens at .*", server.line())[1])
    assert server.line() == f"pid {version} leaves to pid {new}"
    return new


class Crowd(WithoutPause):
    """Clients that ask, and one that tries to bind, without a pause until the end of the with statement."""

    def __init__(self, path):
        super().__init__(*4 * [self._ask], self._bind)
        self._path = path
        self.answers = collections.Counter()  # by pid
        self.refused, self.lost = [], []  # clients that could not connect, and those that got no whole answer
        self.not_refused = 0  # times that the path could be bound, or that nobody held the lock
        self._changed = threading.Condition()

    def wait_for(self, pid):
        """Until `pid` has answered somebody."""
        with self._changed:
            assert self._changed.wait_for(lambda: pid in self.answers, PATIENCE), f"pid {pid} answers nobody"

    def _ask(self):
        try:
            pid = served_by(self._path)
        except (ConnectionRefusedError, FileNotFoundError) as error:
            self.refused.append(error)
        except Exception as error:
            self.lost.append(error)
        else:
            with self._changed:
                self.answers[pid] += 1
                self._changed.notify_all()

    def _bind(self):
        if self._over.wait(0.001):  # or the clients would hardly get a turn
            return
        try:
            unixsock.bind_exclusive(self._path)[1].close()
        except unixsock.AddressInUseError as error:
            if BOUND not in str(error):  # the lock is held all the time
                return
        self.not_refused += 1


@pytest.mark.deadline(180)
def test_through_20_upgrades_no_client_is_refused_no_request_is_lost_and_nobody_else_can_start(path):
    with serving(path) as server:
        versions = [server.pid]
        with Crowd(path) as crowd:
            for _ in range(20):
                crowd.wait_for(versions[-1])
                versions.append(upgraded(server, versions[-1]))
            crowd.wait_for(versions[-1])
        assert (crowd.refused, crowd.lost, crowd.not_refused) == ([], [], 0)
        assert crowd.answers.keys() == set(versions)
        assert len(crowd.answers) == 21
        end(versions[-1])
        unixsock.bind_exclusive(path, timeout=PATIENCE)[1].close()
        assert server.wait() == (0, "")


def test_a_slow_request_is_finished_by_the_version_that_accepted_it_and_then_it_leaves(path):
    with serving(path) as server, contextlib.closing(exit_of(server.pid)) as left, slow_request(path) as finish:
        new = upgraded(server, server.pid)
        while served_by(path) != new:
            pass  # the old one accepts until it has heard that it should not
        assert finish() == server.pid
        assert select.select([left], [], [], PATIENCE)[0]
        assert served_by(path) == new
        end(new)
        assert server.wait() == (0, "")


def test_an_old_version_with_a_slow_request_keeps_no_other_server_from_starting(path):
    with serving(path) as server, slow_request(path) as finish:
        end(upgraded(server, server.pid))
        unixsock.bind_exclusive(path, timeout=PATIENCE)[1].close()
        assert finish() == server.pid
        assert server.wait() == (0, "")


def test_the_new_version_runs_what_the_file_has_become(path, directory):
    program = directory / "server.py"
    text = UPGRADE.read_text()
    program.write_text(text)
    with serving(path, program) as server:
        assert text.count("Hello") > 1
        program.write_text(text.replace("Hello from", "Welcome to"))
        new = upgraded(server, server.pid)
        while (said := answer(path)) != f"Welcome to pid {new}\n":
            assert said == f"Hello from pid {server.pid}\n"
        end(new)
        assert server.wait() == (0, "")


@pytest.mark.parametrize(
    ("broken", "status"),
    [("raise SystemExit(3)", 3), ("import signal\nsignal.pause()", -signal.SIGKILL)],
    ids=["ends", "hangs"],
)
def test_a_new_version_that_does_not_get_ready_changes_nothing(path, directory, broken, status):
    program = directory / "server.py"
    text = UPGRADE.read_text()
    assert text.count("[], PATIENCE)") == 1
    # It is as patient as ever, but with what hangs.
    program.write_text(text.replace("[], PATIENCE)", "[], 0.1 if 'pause' in open(__file__).read() else PATIENCE)"))
    with serving(path, program) as server:
        program.write_text(broken)
        os.kill(server.pid, signal.SIGUSR2)
        assert server.line() == f"pid {server.pid} serves on: its new version was not ready, exit status {status}"
        assert served_by(path) == server.pid
        program.write_text(text)
        new = upgraded(server, server.pid)
        end(new)
        assert server.wait() == (0, "")


def test_a_later_version_leaves_a_stale_socket_file_that_the_next_server_removes(path):
    with serving(path) as server:
        end(upgraded(server, server.pid), signal.SIGTERM)
        assert server.wait() == (0, "")
    assert os.path.exists(path)
    unixsock.bind_exclusive(path)[1].close()


def test_a_server_that_is_told_to_end_during_an_upgrade_ends(path):
    with serving(path) as server:
        os.kill(server.pid, signal.SIGSTOP)
        os.kill(server.pid, signal.SIGUSR2)
        os.kill(server.pid, signal.SIGTERM)
        os.kill(server.pid, signal.SIGCONT)
        assert server.wait() == (0, "")  # and the end of its output: nobody else has it
    unixsock.bind_exclusive(path)[1].close()
