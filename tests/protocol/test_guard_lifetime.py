"""From before bind to after the guard is forgotten: no interrupt loses the socket file, no collection the lock."""

import gc
import os
import platform
import socket
import subprocess
import sys
import warnings

import pytest

import unixsock
from children import Child

BIND = "sock, guard = unixsock.bind_exclusive(path)"


def test_a_guard_dropped_without_close_warns_and_keeps_the_lock_until_the_process_ends(path):
    with Child() as owner:
        owner.do(BIND, path=path)
        said = owner.do(
            "import gc, warnings\n"
            "with warnings.catch_warnings(record=True) as caught:\n"
            "    warnings.simplefilter('always')\n"
            "    del sock, guard\n"
            "    gc.collect()\n"
            "_ = [[warning.category.__name__, str(warning.message)] for warning in caught]"
        )
        assert ["ResourceWarning", f"unclosed <unixsock.Guard {path!r}>"] in said
        with pytest.raises(unixsock.AddressInUseError, match="taken by"):
            unixsock.bind_exclusive(path)
        owner.kill()
    unixsock.bind_exclusive(path)[1].close()


def test_a_listener_detached_from_its_guard_is_not_robbed_when_the_guard_is_dropped(path):
    with Child() as owner:
        owner.do(BIND, path=path)
        owner.do("import gc\nlistener = socket.socket(fileno=sock.detach())\ndel sock, guard\ngc.collect()")
        with pytest.raises(unixsock.AddressInUseError, match="taken by"):
            unixsock.bind_exclusive(path)
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(path)
            owner.do("listener.accept()[0].close()")


def test_the_warning_for_a_dropped_guard_says_which_address_is_not_free(path):
    sock, guard = unixsock.bind_exclusive(path)
    lock = guard.fileno()
    with pytest.warns(ResourceWarning, match=f"unclosed <unixsock.Guard {path!r}>"):
        del guard
        gc.collect()
    sock.close()
    os.close(lock)
    unixsock.bind_exclusive(path)[1].close()


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
    unixsock.bind_exclusive(path)[1].close()


def test_a_guard_whose_making_was_interrupted_is_dropped_silently():
    guard = object.__new__(unixsock.Guard)
    del guard
    gc.collect()


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize(
    "step",
    [
        (unixsock._bind, "narrow_mode"),
        (socket.socket, "bind"),
        (unixsock._bind, "set_mode"),
        (socket.socket, "listen"),
    ],
    ids=lambda step: step[1],
)
def test_a_start_that_fails_at_a_step_leaves_no_socket_file_and_no_lock(path, monkeypatch, step, moment, error):
    real = getattr(*step)

    def failing(*arguments):
        if moment == "after":
            real(*arguments)
        raise error

    with monkeypatch.context() as patched, pytest.raises(error):
        patched.setattr(*step, failing)
        unixsock.bind_exclusive(path, mode=0o600)
    assert os.listdir(os.path.dirname(path)) == ["a.sock.lock"]
    unixsock.bind_exclusive(path)[1].close()


def test_an_interrupt_before_the_guard_has_anything_leaves_no_lock(path, monkeypatch):
    def interrupted(*arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(socket.socket, "__init__", interrupted)
        unixsock.bind_exclusive(path)
    assert os.listdir(os.path.dirname(path)) == ["a.sock.lock"]
    unixsock.bind_exclusive(path)[1].close()


def test_what_goes_wrong_while_undoing_does_not_hide_what_went_wrong_first(path, monkeypatch):
    def listen(sock):
        os.close(sock.fileno())  # so that the guard cannot close it
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(socket.socket, "listen", listen)
        unixsock.bind_exclusive(path)
    assert os.listdir(os.path.dirname(path)) == ["a.sock.lock"]
    unixsock.bind_exclusive(path)[1].close()


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
            unixsock.bind_exclusive(path)[1].close()
    # Up to CPython 3.10, and on PyPy, a signal can also come between the return of a function and what its caller
    # does with it, and then one in a hundred loses the lock. A guard made after bind loses every other one.
    exact = platform.python_implementation() == "CPython" and sys.version_info >= (3, 11)
    assert lost <= (0 if exact else turns / 20)
