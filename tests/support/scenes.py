"""Scenes for bind_exclusive and close, again and again, each time with something else done to them.

    with stage(directory) as path:
        with scene(path, stale):
            verdict(unixsock.bind_exclusive, path, {})  # ("success", None)

Leaving a scene asserts what must hold whatever was done in it: nothing that is not ours has been touched, the lock
file is the same file, and the path can be bound again at once.
"""

import contextlib
import errno
import os
import socket

import pytest

import unixsock
from observed import OTHER_GROUP, leave_stale, mode_of, reaches, snapshot

SUCCESS = "success"
IN_USE = "AddressInUseError"
UMASK = 0o077
STALE_MODE = 0o751  # bind_exclusive makes no such socket file: it was there before
WIDE = 0o666  # more than the umask lets bind(2) give


# What stands at the path when bind_exclusive is called.


@contextlib.contextmanager
def nothing(path):
    yield


@contextlib.contextmanager
def only_the_lock_file(path):
    os.close(os.open(path + ".lock", os.O_CREAT | os.O_EXCL, 0o600))
    yield


@contextlib.contextmanager
def stale(path):
    with only_the_lock_file(path):
        make_stale(path)
        yield


@contextlib.contextmanager
def stale_without_lock_file(path):
    make_stale(path)
    yield


@contextlib.contextmanager
def owner(path):
    sock, guard = unixsock.bind_exclusive(path)
    with guard, untouched(path):
        yield
        assert reaches(path, sock)


@contextlib.contextmanager
def server_without_the_lock(path):
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path)
        server.listen()
        with untouched(path):
            yield
            assert reaches(path, server)


@contextlib.contextmanager
def regular_file(path):
    with open(path, "x") as file:
        file.write("precious")
    with untouched(path):
        yield
    os.unlink(path)


@contextlib.contextmanager
def directory_at_the_lock_path(path):
    os.mkdir(path + ".lock")
    with untouched(path + ".lock"):
        yield
    os.rmdir(path + ".lock")


def make_stale(path):
    leave_stale(path)
    os.chmod(path, STALE_MODE)


# What stands at the path, and the options of the call.
SCENES = {
    "nothing there": (nothing, {}),
    "nothing there, datagram": (nothing, {"type": socket.SOCK_DGRAM}),
    "only the lock file": (only_the_lock_file, {}),
    "stale": (stale, {}),
    "stale, no lock file": (stale_without_lock_file, {}),
    "stale, mode": (stale, {"mode": WIDE}),
    "stale, datagram, mode, group": (stale, {"type": socket.SOCK_DGRAM, "mode": WIDE, "group": OTHER_GROUP}),
    "refused: owner": (owner, {}),
    "refused: server without the lock": (server_without_the_lock, {}),
    "refused: regular file": (regular_file, {}),
}


# What must hold afterwards.


@contextlib.contextmanager
def stage(directory):
    """A path in `directory` beside files of others: a regular, a stale and a live one, to whose server nobody comes."""
    path = os.path.join(directory, "a.sock")
    file, stale_socket, live = neighbours(path)
    umask = os.umask(UMASK)
    try:
        make_stale(stale_socket)
        with regular_file(file), socket.socket(socket.AF_UNIX) as server:
            server.bind(live)
            server.listen()
            yield path
            server.settimeout(0)
            with pytest.raises(BlockingIOError):
                server.accept()
            assert reaches(live, server)
    finally:
        os.umask(umask)


def neighbours(path):
    return path + ".old", path[:-1], path + ".lock.sock"


@contextlib.contextmanager
def scene(path, setup):
    """What `setup` puts at the path of a stage, for one call."""
    with contextlib.ExitStack() as stack:
        for neighbour in neighbours(path):
            stack.enter_context(untouched(neighbour))
        with setup(path), same_lock_file(path):
            yield
        with same_lock_file(path):
            sock, guard = unixsock.bind_exclusive(path)
            with guard:
                assert reaches(path, sock)
            assert not os.path.lexists(path)
        os.unlink(path + ".lock")


@contextlib.contextmanager
def untouched(path):
    """Nobody replaces, removes, writes, links or re-modes the file at `path`."""
    unchanged = snapshot(path)
    yield
    assert snapshot(path) == unchanged


@contextlib.contextmanager
def same_lock_file(path):
    """The lock file, if there is one, stays the same one."""
    if not os.path.isfile(path + ".lock"):
        yield
        return
    # As long as it is open, no other file gets its inode number.
    with open(path + ".lock"), untouched(path + ".lock"):
        yield


# How bind_exclusive and close end.


def verdict(bind, address, options):
    """SUCCESS, IN_USE or the name of the errno; then the filename of the error, if there was one."""
    try:
        with bind(address, **options)[1]:
            assert "mode" not in options or mode_of(address) == options["mode"]
            assert "group" not in options or os.lstat(address).st_gid == options["group"]
    except unixsock.AddressInUseError as error:
        return IN_USE, error.filename
    except OSError as error:
        return errno.errorcode[error.errno], error.filename
    return SUCCESS, None


def total(request, what):
    """For a fixture of a module: a list, the length of which is printed as a number of `what` in the end."""
    counted = []
    yield counted
    with request.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        print(f"\n{len(counted)} {what}")
