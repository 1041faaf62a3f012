"""Who waits tries anew until the owner has gone or the time is over, and holds nothing in between."""

import fcntl
import math
import os
import signal
import socket

import pytest

import unixsock
from children import Child, ChildError
from observed import open_descriptors
from unixsock import _bind


class Clock:
    """Time as the library sees it: it passes in sleep() only. `pauses` has what was slept."""

    def __init__(self, meanwhile=None):
        """Call `meanwhile()` in each sleep."""
        self.now = 1000.0
        self.pauses = []
        self._meanwhile = meanwhile

    def monotonic(self):
        return self.now

    def sleep(self, seconds):
        self.pauses.append(seconds)
        self.now += seconds
        if self._meanwhile:
            self._meanwhile()


@pytest.fixture
def owned(path):
    """The guard that owns the path."""
    with unixsock.bind_exclusive(path)[1] as guard:
        yield guard


@pytest.fixture
def lookups(monkeypatch):
    """Each lookup of an owner's pid."""
    seen = []
    owner_pid = _bind.owner_pid

    def counted(lock_path):
        seen.append(lock_path)
        return owner_pid(lock_path)

    monkeypatch.setattr(_bind, "owner_pid", counted)
    return seen


def test_who_does_not_wait_tries_once(path, owned, monkeypatch):
    monkeypatch.setattr(_bind, "time", clock := Clock())
    for timeout in ({}, {"timeout": 0}, {"timeout": -0.0}):
        with pytest.raises(unixsock.AddressInUseError):
            unixsock.bind_exclusive(path, **timeout)
    assert clock.pauses == []


def test_pauses_double_to_50_ms_and_the_last_one_ends_with_the_time(path, owned, monkeypatch):
    monkeypatch.setattr(_bind, "time", clock := Clock())
    with pytest.raises(unixsock.AddressInUseError):
        unixsock.bind_exclusive(path, timeout=0.18)
    assert clock.pauses == pytest.approx([0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.05, 0.05, 0.017])
    assert clock.now == pytest.approx(1000.18)


def test_a_pause_is_never_longer_than_the_time_that_is_left(path, owned, monkeypatch):
    monkeypatch.setattr(_bind, "time", clock := Clock())
    with pytest.raises(unixsock.AddressInUseError):
        unixsock.bind_exclusive(path, timeout=0.0005)
    assert clock.pauses == pytest.approx([0.0005])


def test_the_last_try_comes_after_the_last_pause(path, owned, monkeypatch):
    monkeypatch.setattr(_bind, "time", clock := Clock(meanwhile=owned.close))
    unixsock.bind_exclusive(path, timeout=0.0005)[1].close()
    assert len(clock.pauses) == 1


@pytest.mark.parametrize("timeout", [None, math.inf, 10**300])
def test_without_a_limit_it_never_gives_up(path, owned, monkeypatch, timeout):
    clock = Clock(meanwhile=lambda: len(clock.pauses) == 200 and owned.close())
    monkeypatch.setattr(_bind, "time", clock)
    unixsock.bind_exclusive(path, timeout=timeout)[1].close()
    assert len(clock.pauses) == 200
    assert max(clock.pauses) == 0.05


def test_the_owner_is_looked_up_once_when_giving_up(path, owned, monkeypatch, lookups):
    monkeypatch.setattr(_bind, "time", clock := Clock())
    with pytest.raises(unixsock.AddressInUseError):
        unixsock.bind_exclusive(path, timeout=5)
    assert len(clock.pauses) > 100
    assert lookups == [owned.lock_path]


def test_the_owner_is_not_looked_up_when_waiting_helped(path, owned, monkeypatch, lookups):
    monkeypatch.setattr(_bind, "time", Clock(meanwhile=owned.close))
    unixsock.bind_exclusive(path, timeout=5)[1].close()
    assert lookups == []


def test_nothing_is_held_between_two_tries(directory, path, monkeypatch):
    # The server is without the lock, so that each try takes the lock before it fails.
    def look():
        descriptors.append(open_descriptors())
        with open(path + ".lock") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        standing.append(sorted(os.listdir(directory)))

    descriptors, standing = [], []
    monkeypatch.setattr(_bind, "time", Clock(meanwhile=look))
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path)
        before = open_descriptors()
        with pytest.raises(unixsock.AddressInUseError) as refusal:
            unixsock.bind_exclusive(path, timeout=0.05)
    assert refusal.value.owner_pid is None
    assert len(descriptors) > 3
    assert all(held == before for held in descriptors)
    assert all(names == ["a.sock", "a.sock.lock"] for names in standing)


def test_a_server_without_the_lock_is_waited_for_too(path, monkeypatch):
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path)
        server.listen()
        clock = Clock(meanwhile=lambda: len(clock.pauses) == 3 and server.close())
        monkeypatch.setattr(_bind, "time", clock)
        unixsock.bind_exclusive(path, timeout=None)[1].close()
    assert len(clock.pauses) == 3


def test_only_an_owner_is_waited_for(directory, path, monkeypatch):
    monkeypatch.setattr(_bind, "time", clock := Clock())
    (directory / "a.sock").write_text("precious")
    with pytest.raises(FileExistsError):
        unixsock.bind_exclusive(path, timeout=None)
    with pytest.raises(FileNotFoundError):
        unixsock.bind_exclusive(directory / "missing" / "a.sock", timeout=None)
    assert clock.pauses == []


# From here on: real time, real processes.

WAIT = """
import unixsock._bind, time

def sleep(seconds, sleep=time.sleep):
    with open(asleep, "w"):
        pass  # the test has met us here
    unixsock._bind.time.sleep = sleep
    sleep({pause})

unixsock._bind.time.sleep = sleep
before = os.listdir("/dev/fd")
sock, guard = unixsock.bind_exclusive(path, timeout=timeout)
"""


@pytest.fixture
def waiter(directory, path):
    """A child and what makes it wait for the path; it goes on once the child is in its first pause."""
    fifo = str(directory / "asleep")
    os.mkfifo(fifo)
    with Child() as child:

        def wait(timeout, pause="seconds"):
            child.start(WAIT.format(pause=pause), path=path, timeout=timeout, asleep=fifo)
            with open(fifo) as asleep:
                asleep.read()
            os.unlink(fifo)
            return child

        yield wait


def test_who_waits_gives_up_when_the_time_is_over(directory, path, owned, waiter):
    child = waiter(timeout=0.1)
    with pytest.raises(ChildError, match=rf"taken by pid {os.getpid()}|taken by another") as refusal:
        child.answer()
    assert refusal.value.kind == "AddressInUseError"
    assert sorted(os.listdir(directory)) == ["a.sock", "a.sock.lock"]


@pytest.mark.parametrize("timeout", [None, 30])
def test_who_waits_gets_the_address_when_the_owner_leaves(path, owned, waiter, timeout):
    child = waiter(timeout=timeout)
    assert child.still_busy()
    owned.close()
    child.answer()
    assert child.value("guard.closed") is False
    child.do("guard.close()")


def test_who_waits_gets_the_address_when_the_owner_is_killed(directory, path, waiter):
    with Child() as owner:
        owner.do("held = unixsock.bind_exclusive(path)", path=path)
        child = waiter(timeout=None)
        assert child.still_busy()
        owner.kill()
        child.answer()
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(path)
        child.do("guard.close()")
    assert os.listdir(directory) == ["a.sock.lock"]


def test_ctrl_c_ends_the_wait_and_nothing_is_left_of_it(directory, path, owned, waiter):
    # One long pause in place of many short ones: the signal comes while it sleeps.
    child = waiter(timeout=None, pause="60")
    os.kill(child.pid, signal.SIGINT)
    with pytest.raises(ChildError) as interrupt:
        child.answer()
    assert interrupt.value.kind == "KeyboardInterrupt"
    assert "During handling" not in str(interrupt.value)
    assert child.value("os.listdir('/dev/fd') == before")
    assert sorted(os.listdir(directory)) == ["a.sock", "a.sock.lock"]
    owned.close()
    child.do("sock, guard = unixsock.bind_exclusive(path)", path=path)
    child.do("guard.close()")
