"""From before bind to after the guard is forgotten: no interrupt loses the socket file, no collection the lock."""

import errno
import gc
import os
import platform
import subprocess
import sys
import warnings

import pytest

import unixsock
from children import Child
from observed import BIND, reaches, refused, start_and_close
from system_calls import after, before

DROP = """
import gc, warnings
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    del sock, guard
    gc.collect()
_ = [[warning.category.__name__, str(warning.message)] for warning in caught]
"""


def test_a_guard_dropped_without_close_warns_and_keeps_the_lock_until_the_process_ends(path):
    with Child() as owner:
        owner.do(BIND, path=path)
        assert ["ResourceWarning", f"unclosed <unixsock.Guard {path!r}>"] in owner.do(DROP)
        refused(path)
        owner.kill()
    start_and_close(path)


def test_a_listener_detached_from_its_guard_keeps_the_path_when_the_guard_is_dropped(path):
    with Child() as owner:
        owner.do(BIND, path=path)
        owner.do("listener = socket.socket(fileno=sock.detach())")
        owner.do(DROP)
        refused(path)
        owner.do("sock = listener")
        assert reaches(path, owner)


def test_a_closed_guard_is_dropped_silently(path):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        sock, guard = unixsock.bind_exclusive(path)
        guard.close()
        del sock, guard
        gc.collect()
    assert caught == []


def test_a_guard_still_open_when_the_interpreter_ends_warns_without_a_traceback(path):
    program = f"import unixsock; sock, guard = unixsock.bind_exclusive({path!r})"
    ended = subprocess.run([sys.executable, "-W", "always", "-c", program], capture_output=True, text=True, check=True)
    assert "Traceback" not in ended.stderr
    # PyPy finalises nothing at its end.
    assert ("unclosed <unixsock.Guard" in ended.stderr) == (platform.python_implementation() == "CPython")
    start_and_close(path)


def test_a_guard_whose_making_was_interrupted_is_dropped_silently():
    guard = object.__new__(unixsock.Guard)
    del guard
    gc.collect()


STEPS = [(when, step) for when in (before, after) for step in ("os.fchmod", "socket.bind", "os.chmod", "socket.listen")]


@pytest.mark.parametrize(
    "error", [KeyboardInterrupt(), TimeoutError("deadline"), OSError(errno.EIO, "failed")], ids=str
)
@pytest.mark.parametrize(("when", "step"), [(before, "socket.socket"), *STEPS])
def test_a_start_that_fails_at_a_step_leaves_no_socket_file_and_no_lock(directory, path, when, step, error):
    def fail(_):
        raise error

    umask = os.umask(0o077)  # so that there is a mode to be set
    with when(step, fail), pytest.raises(type(error)) as raised:
        unixsock.bind_exclusive(path, mode=0o666)
    os.umask(umask)
    assert raised.value is error
    assert os.listdir(directory) == ["a.sock.lock"]
    start_and_close(path)


def test_what_goes_wrong_while_undoing_does_not_hide_what_went_wrong_first(directory, path):
    def lose(call):
        os.close(call.args[0].fileno())  # so that the guard cannot close it
        raise KeyboardInterrupt

    with before("socket.listen", lose), pytest.raises(KeyboardInterrupt):
        unixsock.bind_exclusive(path)
    assert os.listdir(directory) == ["a.sock.lock"]
    start_and_close(path)


LOSES = """
import random

def interrupt(number, frame):
    # Only inside bind_exclusive: once it has returned, closing the guard is up to the caller.
    while frame and frame.f_code is not unixsock.bind_exclusive.__code__:
        frame = frame.f_back
    if frame:
        raise KeyboardInterrupt

def bind_until_interrupted(path):
    unixsock.bind_exclusive(path)[1].close()  # the first one after a fork is slow, and would get all the interrupts
    while True:
        signal.setitimer(signal.ITIMER_REAL, random.uniform(0.00001, 0.0002))
        sock, guard = unixsock.bind_exclusive(path)
        signal.setitimer(signal.ITIMER_REAL, 0)
        guard.close()

def loses(path):
    try:
        bind_until_interrupted(path)
    except KeyboardInterrupt:
        left = os.path.exists(path)
    try:
        unixsock.bind_exclusive(path)[1].close()
    except unixsock.AddressInUseError:
        return True
    return left

signal.signal(signal.SIGALRM, interrupt)
"""


def test_interrupts_at_random_moments_lose_no_socket_file_and_no_lock(path):
    turns = 300
    # Not where coverage is measured: the interrupts would hit the code that measures.
    unmeasured = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE")}
    with Child(env=unmeasured) as starter:
        starter.do(LOSES)
        lost = 0
        for _ in range(turns):
            with starter.fork() as interrupted:
                lost += interrupted.value("loses(path)", path=path)
            start_and_close(path)
    # Up to CPython 3.10, and on PyPy, a signal can also come between the return of a function and what its caller
    # does with it, and then one in a hundred loses the lock. A guard made after bind loses every other one.
    exact = platform.python_implementation() == "CPython" and sys.version_info >= (3, 11)
    assert lost <= (0 if exact else turns / 20)
