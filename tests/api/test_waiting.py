"""Who waits tries anew until the owner has gone or the time is over, and holds nothing in between."""

import fcntl
import math
import os
import signal
import socket
import time

import pytest

import unixsock
from children import Child, ChildError
from observed import BIND, BOUND, expect_refusal, open_descriptors, reaches, start_and_close
from system_calls import before, intercepted

LONGEST_PAUSE = 0.01


@pytest.fixture
def owned(path):
    """The guard that owns the path."""
    with unixsock.bind_exclusive(path)[1] as guard:
        yield guard


@pytest.fixture
def clock(monkeypatch):
    """Time as the library sees it: it passes in sleep() only, which calls clock.meanwhile()."""

    class Clock:
        now = 1000.0
        pauses = ()
        meanwhile = staticmethod(lambda: None)

    def sleep(seconds):
        Clock.pauses += (seconds,)
        Clock.now += seconds
        Clock.meanwhile()

    with monkeypatch.context() as patch:
        patch.setattr(time, "monotonic", lambda: Clock.now)
        patch.setattr(time, "sleep", sleep)
        yield Clock


def test_who_does_not_wait_tries_once(path, owned, clock):
    for timeout in ({}, {"timeout": 0}, {"timeout": -0.0}):
        expect_refusal(path, **timeout)
    assert clock.pauses == ()


@pytest.mark.parametrize(
    ("timeout", "pauses"),
    [(0.045, [0.001, 0.002, 0.004, 0.008, 0.01, 0.01, 0.01]), (0.0005, [0.0005])],
)
def test_pauses_double_up_to_the_longest_and_the_last_one_ends_with_the_time(path, owned, clock, timeout, pauses):
    expect_refusal(path, timeout=timeout)
    assert clock.pauses == pytest.approx(pauses)
    assert clock.now == pytest.approx(1000 + timeout)


def test_the_last_try_comes_after_the_last_pause(path, owned, clock):
    clock.meanwhile = owned.close
    start_and_close(path, timeout=0.0005)
    assert len(clock.pauses) == 1


@pytest.mark.parametrize("timeout", [None, math.inf, 10**300])
def test_without_a_limit_it_never_gives_up(path, owned, clock, timeout):
    clock.meanwhile = lambda: len(clock.pauses) == 200 and owned.close()
    start_and_close(path, timeout=timeout)
    assert len(clock.pauses) == 200
    assert max(clock.pauses) == LONGEST_PAUSE


def test_the_owner_is_looked_up_when_giving_up_and_not_before(path, owned):
    def note(call):
        seen.append("lookup" if call.args[:1] == ("/proc/locks",) else "pause" if call.name == "time.sleep" else None)
        return call.run()

    seen = []
    with intercepted(note):
        expect_refusal(path, timeout=0.02)
        assert [event for event in seen if event][-2:] == ["pause", "lookup"]
        assert seen.count("lookup") == 1
        seen.clear()
        with before("time.sleep", lambda _: owned.close()):
            start_and_close(path, timeout=20)
    assert "pause" in seen
    assert "lookup" not in seen


def test_nothing_is_held_between_two_tries(directory, path, clock):
    # The server is without the lock, so that each try takes the lock before it fails.
    def look():
        descriptors.append(open_descriptors())
        with open(path + ".lock") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        files.append(sorted(os.listdir(directory)))

    descriptors, files = [], []
    clock.meanwhile = look
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path)
        held = open_descriptors()
        expect_refusal(path, BOUND, timeout=0.05)
    assert len(descriptors) > 3
    assert all(seen == held for seen in descriptors)
    assert all(names == ["a.sock", "a.sock.lock"] for names in files)


def test_a_server_without_the_lock_is_waited_for_too(path, clock):
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path)
        server.listen()
        clock.meanwhile = lambda: len(clock.pauses) == 3 and server.close()
        start_and_close(path, timeout=None)
    assert len(clock.pauses) == 3


def test_only_an_owner_is_waited_for(directory, path, clock):
    (directory / "a.sock").write_text("precious")
    with pytest.raises(FileExistsError):
        unixsock.bind_exclusive(path, timeout=None)
    with pytest.raises(FileNotFoundError):
        unixsock.bind_exclusive(directory / "missing" / "a.sock", timeout=None)
    assert clock.pauses == ()


# From here on: real time, real processes. What is printed into the FIFO says that the child is in its first pause.

WAIT = """
import time
from observed import open_descriptors
sleep = time.sleep
def first(seconds):
    with open(asleep, "w"):
        pass  # the test has met us here
    time.sleep = sleep
    sleep(pause or seconds)
time.sleep = first
at_first = open_descriptors()
sock, guard = unixsock.bind_exclusive(path, timeout=timeout)
"""


@pytest.fixture
def waiter(directory, path):
    """What makes a child wait for the path; it goes on once the child is in its first pause."""
    fifo = str(directory / "asleep")
    os.mkfifo(fifo)
    with Child() as child:

        def wait(timeout, pause=None):
            child.start(WAIT, path=path, timeout=timeout, pause=pause, asleep=fifo)
            with open(fifo) as asleep:
                asleep.read()
            os.unlink(fifo)
            return child

        yield wait


@pytest.mark.parametrize("timeout", [None, 30])
@pytest.mark.parametrize("leave", [lambda owner: owner.do("guard.close()"), Child.kill], ids=["closes", "is killed"])
def test_who_waits_gets_the_path_when_the_owner_leaves(path, waiter, timeout, leave):
    with Child() as owner:
        owner.do(BIND, path=path)
        child = waiter(timeout=timeout)
        assert child.still_busy()
        leave(owner)
        child.answer()
        assert reaches(path, child)
        child.do("guard.close()")
    assert not os.path.exists(path)


def test_ctrl_c_ends_the_wait_and_nothing_is_left_of_it(directory, path, owned, waiter):
    # One long pause in place of many short ones: the signal comes while it sleeps.
    child = waiter(timeout=None, pause=60)
    os.kill(child.pid, signal.SIGINT)
    with pytest.raises(ChildError) as interrupt:
        child.answer()
    assert interrupt.value.kind == "KeyboardInterrupt"
    assert "During handling" not in str(interrupt.value)
    assert child.value("open_descriptors() == at_first")
    assert sorted(os.listdir(directory)) == ["a.sock", "a.sock.lock"]
    owned.close()
    start_and_close(path)
