"""Each system call of a bind and a close fails with each errno: the error names the path, nothing is left behind."""

import errno
import itertools
import os
from errno import EADDRINUSE, EAGAIN, ECONNREFUSED, ECONNRESET, EEXIST, EINVAL, ENOENT, EPROTOTYPE
from functools import partial
from socket import SOCK_DGRAM, SOCK_STREAM
from typing import NamedTuple

import pytest

from observed import mode_of, on_linux, open_descriptors
from scenes import IN_USE, SCENES, scene, stage, total, verdict
from system_calls import intercepted
from unixsock import bind_abstract, bind_exclusive

# What the manual pages say that a call can fail with. One that is not in the table gets them all.
MANUAL_PAGES = {
    "os.getcwd": "EACCES ENOENT ENOMEM",
    "os.open": "EACCES EAGAIN EBUSY EDQUOT EEXIST EINTR EINVAL EISDIR ELOOP EMFILE ENFILE ENODEV ENOENT ENOMEM ENOSPC "
    "ENOTDIR ENXIO EOPNOTSUPP EPERM EROFS ETXTBSY",
    "os.fstat": "EBADF ENOMEM EOVERFLOW",
    "fcntl.flock": "EAGAIN EBADF EINTR EINVAL ENOLCK EOPNOTSUPP",
    "os.lstat": "EACCES ELOOP ENOENT ENOMEM ENOTDIR EOVERFLOW EPERM",
    "os.rename": "EACCES EBUSY EDQUOT EINVAL ELOOP EMLINK ENOENT ENOMEM ENOSPC ENOTDIR EPERM EROFS EXDEV",
    "os.unlink": "EACCES EBUSY EISDIR ELOOP ENOENT ENOMEM ENOTDIR EPERM EROFS",
    "os.fchmod": "EBADF EINVAL EPERM EROFS",
    "os.chown": "EACCES EINVAL ELOOP ENOENT ENOMEM ENOTDIR EPERM EROFS",
    "os.chmod": "EACCES ELOOP ENOENT ENOMEM ENOTDIR EOPNOTSUPP EPERM EROFS",
    "os.close": "EBADF EDQUOT ENOSPC",
    "socket.socket": "EACCES EAFNOSUPPORT EINVAL EMFILE ENFILE ENOBUFS ENOMEM EPROTONOSUPPORT",
    "socket.settimeout": "EBADF EINVAL ENOTTY",
    "socket.connect_ex": "EACCES EADDRNOTAVAIL EALREADY EBADF ECONNREFUSED EINPROGRESS EISCONN ELOOP ENOENT ENOTDIR "
    "ECONNRESET ENOTSOCK EPERM EPROTOTYPE ETIMEDOUT",
    "socket.bind": "EACCES EADDRINUSE EADDRNOTAVAIL EBADF EINVAL ELOOP ENOENT ENOMEM ENOSPC ENOTDIR EROFS",
    "socket.listen": "EADDRINUSE EBADF EINVAL EOPNOTSUPP",
    "socket.close": "EBADF EDQUOT ENOSPC",
}
# Also where the manual pages say nothing of it.
EVERYWHERE = "EIO EAGAIN EINTR"

USUAL = "as if nothing had failed"
BELIEVED = "not tried: it says twice that no socket is bound"

# Before anything is bound, these errors are answers. What bind_exclusive makes of each when it comes once, and when it
# comes from then on; all others are raised.
ANSWERS = {
    # No lock file, so it is made. It was there after all: once more from the beginning.
    ("os.open", "lock", ENOENT): (USUAL, "ENOENT"),
    # Somebody else has made it meanwhile: once more from the beginning.
    ("os.open", "new lock", EEXIST): (USUAL, "EEXIST"),
    # Somebody has removed it meanwhile: once more from the beginning, but not for ever.
    ("os.lstat", "lock", ENOENT): (USUAL, "EBUSY"),
    # Another user has a lease on it.
    ("os.open", "lock", EAGAIN): (IN_USE, IN_USE),
    # It is locked.
    ("fcntl.flock", "lock", EAGAIN): (IN_USE, IN_USE),
    # The socket file has gone meanwhile. It is there after all, so bind(2) says EADDRINUSE.
    ("os.lstat", "address", ENOENT): (IN_USE, IN_USE),
    ("os.rename", "address", ENOENT): (IN_USE, IN_USE),
    ("os.unlink", "address", ENOENT): (IN_USE, IN_USE),
    ("socket.connect_ex", SOCK_DGRAM, ENOENT): (IN_USE, IN_USE),
    ("socket.connect_ex", SOCK_STREAM, ENOENT): (IN_USE, IN_USE),
    # A server is bound there: of another type, or with a full backlog.
    ("socket.connect_ex", SOCK_DGRAM, EPROTOTYPE): (IN_USE, IN_USE),
    ("socket.connect_ex", SOCK_STREAM, EPROTOTYPE): (IN_USE, IN_USE),
    ("socket.connect_ex", SOCK_STREAM, EAGAIN): (IN_USE, IN_USE),
    # It is just closing, on macOS and the BSDs.
    ("socket.connect_ex", SOCK_DGRAM, ECONNRESET): (IN_USE, IN_USE),
    ("socket.connect_ex", SOCK_STREAM, ECONNRESET): (IN_USE, IN_USE),
    # None is, but that takes a second probe.
    ("socket.connect_ex", SOCK_DGRAM, ECONNREFUSED): (USUAL, BELIEVED),
    # A socket that is not bound has no mode on this system. The socket file gets its mode after bind(2).
    ("os.fchmod", "address", EINVAL): (USUAL, USUAL),
    # Somebody without the lock was faster.
    ("socket.bind", "address", EADDRINUSE): (IN_USE, IN_USE),
}


class Step(NamedTuple):
    """A system call of bind_exclusive and close when nobody disturbs them."""

    part: str  # "start"; "bound", from bind(2) on; "close"; "cleanup", also that of a refused call
    name: str
    about: object  # "lock", "new lock" or "address"; for a connect the type of the socket
    error: int  # with which it fails anyway; 0 when it succeeds


class Fault(NamedTuple):
    at: int  # the number of the call
    step: Step
    error: int
    lasting: bool  # from then on, for all calls of this name
    end: tuple  # the verdict that is expected


# The calls that begin another part: with themselves, or with the next one.
BEGINS = {("start", "os.close"): "cleanup", ("bound", "socket.close"): "close"}
ENDS = {("start", "socket.bind"): "bound", ("close", "os.close"): "cleanup"}


def recorded(run, address):
    """Every Step, and the verdict."""
    steps = []
    part = "start"
    locks = {os.path.abspath(address) + ".lock"}  # the path, and the descriptors that it was opened as

    def hook(call):
        nonlocal part
        part = BEGINS.get((part, call.name), part)
        if call.name == "socket.connect_ex":
            about = call.args[0].type
        elif call.name == "os.open" and call.args[1] & os.O_CREAT:
            about = "new lock"
        else:
            about = "lock" if call.args and call.args[0] in locks else "address"
        error = 0
        try:
            result = call.run()
        except OSError as failure:
            error = failure.errno
            raise
        else:
            if call.name == "os.open" and about != "address":
                locks.add(result)
            if call.name == "socket.connect_ex":
                error = result
            return result
        finally:
            steps.append(Step(part, call.name, about, error))
            part = ENDS.get((part, call.name), part)

    with intercepted(hook):
        return steps, run()


def faults_of(steps, usual, address, named):
    """Every Fault; none where the call fails like that anyway. `named` is the file that a Step's error names."""
    for at, step in enumerate(steps):
        pages = MANUAL_PAGES.get(step.name, " ".join(MANUAL_PAGES.values()))
        errors = {getattr(errno, name) for name in f"{pages} {EVERYWHERE}".split()} - {step.error}
        for error, lasting in itertools.product(sorted(errors), [False, True]):
            end = errno.errorcode[error]
            if step.part == "start":
                end = ANSWERS.get((step.name, step.about, error), (end, end))[lasting]
            elif step.part == "cleanup":
                # A refusal says more than this error, and what a close cannot clear, the next owner does.
                end = USUAL
            if end == USUAL:
                yield Fault(at, step, error, lasting, usual)
            elif end != BELIEVED:
                yield Fault(at, step, error, lasting, (end, address if end == IN_USE else named(step, end)))


def injecting(fault):
    """A hook that makes it happen."""
    numbers = itertools.count()

    def hook(call):
        at = next(numbers)
        if at < fault.at or call.name != fault.step.name or (at > fault.at and not fault.lasting):
            return call.run()
        if call.name.endswith(".close"):
            call.run()  # close(2): the descriptor is gone all the same
        if call.name == "socket.connect_ex":
            return fault.error
        # The real one, too, names the path that it was called with, if any.
        path = [subject for subject in call.args[:1] if isinstance(subject, str)]
        raise OSError(fault.error, os.strerror(fault.error), *path)

    return hook


@pytest.fixture(scope="module")
def faults(request):
    yield from total(request, "faults, each another errno of another system call, once or from then on")


def assert_survives(fault, run, address):
    mode = mode_of(address)
    descriptors = open_descriptors()
    with intercepted(injecting(fault)):
        assert run() == fault.end
    assert open_descriptors() == descriptors
    if not fault.lasting and fault.step.part != "cleanup":
        assert mode_of(address) in (None, mode)  # nothing, or what stood there before


@pytest.mark.parametrize("case", SCENES)
def test_a_system_call_that_fails_is_reported_and_undone(directory, monkeypatch, faults, case):
    def named(step, end):
        if step.name == "os.getcwd":
            return path
        # Where it is the directory that is not there, the lock file is not the one to name.
        of_lock = step.about in ("lock", "new lock") and end not in ("ENOENT", "ENOTDIR", "ELOOP")
        return os.path.abspath(path) + (".lock" if of_lock else "")

    setup, options = SCENES[case]
    monkeypatch.chdir(directory)
    with stage("") as path:  # a relative one, so that getcwd(3) is among the calls
        run = partial(verdict, bind_exclusive, path, options)
        with scene(path, setup):
            steps, usual = recorded(run, path)
        already = len(faults)
        for fault in faults_of(steps, usual, os.path.abspath(path), named):
            with scene(path, setup):
                assert_survives(fault, run, path)
            faults.append(fault)
    assert len(faults) - already > 100


@on_linux
def test_a_system_call_that_fails_for_an_abstract_name_is_reported_and_undone(faults):
    name = f"unixsock-{os.getpid()}"
    run = partial(verdict, bind_abstract, name, {})
    steps, usual = recorded(run, name)
    already = len(faults)
    for fault in faults_of(steps, usual, name, lambda *_: name):
        assert_survives(fault, run, name)
        bind_abstract(name)[1].close()
        faults.append(fault)
    assert len(faults) - already > 50
