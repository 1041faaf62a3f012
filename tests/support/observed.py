"""What a test does to a path, and sees from outside: is it taken, who serves there, what stands there."""

import contextlib
import gc
import importlib
import os
import platform
import select
import socket
import sys
import warnings

import pytest

import unixsock
from children import PATIENCE, Child, ChildError

TYPES = [socket.SOCK_STREAM, socket.SOCK_DGRAM]
if sys.platform != "darwin":  # which has no Unix-domain seqpacket sockets
    TYPES.append(socket.SOCK_SEQPACKET)
each_type = pytest.mark.parametrize("kind", TYPES, ids=lambda kind: kind.name)
on_linux = pytest.mark.skipif(sys.platform != "linux", reason="Linux only")
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be two users")

# One that a file of ours can be given; where that is possible, another one than it has anyhow.
OTHER_GROUP = 61002 if os.geteuid() == 0 else max([os.getegid(), *os.getgroups()])

# What a Child is told to do.
BIND = "sock, guard = unixsock.bind_exclusive(path)"
START = """
try:
    unixsock.bind_exclusive(path)[1].close()
    _ = ["started", None]
except unixsock.AddressInUseError as error:
    _ = ["refused", error.owner_pid]
"""

# Why a path is refused: for the lock, or for a server without it. Both as the messages put it.
TAKEN = "taken by"
BOUND = "bound there"

# What can stand where a socket, or a lock file, is expected: how to make it there, and what an error calls it.
ODD_FILES = {
    "a directory": (os.mkdir, "a directory"),
    "a FIFO": (os.mkfifo, "a FIFO"),
    "a link to itself": (lambda path: os.symlink(os.path.basename(path), path), "a symbolic link"),
    **{
        f"a link to {target}": (lambda path, target=target: os.symlink(target, path), "a symbolic link")
        for target in ("live.sock", "stale.sock", "file", ".", "nothing")
    },
}
if os.geteuid() == 0:
    ODD_FILES["a device"] = lambda path: os.mknod(path, 0o20666, os.makedev(1, 3)), "a device"


def expect_refusal(path, why=TAKEN, bind=unixsock.bind_exclusive, **options):
    """Nobody else gets the address. Return the error that says so."""
    with pytest.raises(unixsock.AddressInUseError, match=why) as refusal:
        bind(path, **options)
    assert refusal.value.owner_pid is None or why == TAKEN
    return refusal.value


def raised_by(child, path, **options):
    """The class, the errno and the filename of the error that bind_exclusive raises in that Child."""
    with pytest.raises(ChildError) as failure:
        child.do("unixsock.bind_exclusive(path, **options)", path=path, options=options)
    return failure.value.kind, failure.value.errno, failure.value.filename


def start_and_close(path, **options):
    """The path is free: it can be bound, and closing removes the socket file."""
    try:
        _, guard = unixsock.bind_exclusive(path, **options)
    except unixsock.AddressInUseError as error:
        pytest.fail(f"refused: {error}")
    guard.close()
    assert not os.path.lexists(path)


def reaches(path, server):
    """Whether a client of `path` gets to `server`: a listening socket, or a Child that has one as `sock`."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(PATIENCE)
        try:
            client.connect(path)
        except (FileNotFoundError, ConnectionRefusedError):
            return False
        if isinstance(server, Child):
            server.do("with sock.accept()[0] as served: served.sendall(str(os.getpid()).encode())")
            return client.recv(16) == str(server.pid).encode()
        return server in select.select([server], [], [], 0)[0]


def assert_serves(sock, kind, address):
    """It listens as its `kind` has it, and what a client sends to `address` arrives."""
    listening = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    assert bool(listening) == (kind != socket.SOCK_DGRAM)
    with socket.socket(socket.AF_UNIX, kind) as client:
        client.connect(address)
        client.send(b"ping")
        with sock.accept()[0] if listening else sock.dup() as served:
            assert served.recv(4) == b"ping"


def leave_stale(path, kind=socket.SOCK_STREAM):
    with socket.socket(socket.AF_UNIX, kind) as left:
        left.bind(os.fspath(path))


def snapshot(path):
    """All that could change about a file, but for its access time; about what is in a directory, but for the lock."""
    file = os.lstat(path)
    seen = [
        getattr(file, f"st_{name}") for name in ["ino", "mode", "nlink", "uid", "gid", "size", "mtime_ns", "ctime_ns"]
    ]
    if os.path.isdir(path) and not os.path.islink(path):
        return {name: snapshot(os.path.join(path, name)) for name in os.listdir(path) if name != "a.sock.lock"}
    return seen


def mode_of(path):
    """Its permission bits; None when nothing is there."""
    try:
        return os.lstat(path).st_mode & 0o7777
    except FileNotFoundError:
        return None


@contextlib.contextmanager
def dropped(lock_path):
    """Inside, a guard of this lock file is dropped without a close: CPython gives a file's own warning."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
        collect()
    if platform.python_implementation() == "CPython":
        assert any(f"unclosed file <_io.FileIO name={lock_path!r}" in str(warning.message) for warning in caught)


def collect():
    """What a guard refers to is finalised after it, by PyPy in a later collection."""
    for _ in range(3):
        gc.collect()


def imported_anew(monkeypatch):
    """The package, as one more copy, under what `monkeypatch` has changed so far."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "unixsock"]:
        monkeypatch.delitem(sys.modules, name)
    return importlib.import_module("unixsock")


def open_descriptors():
    """The descriptors of this process, each with what it refers to where /proc tells."""
    where = "/proc/self/fd" if os.path.isdir("/proc/self/fd") else "/dev/fd"
    found = {}
    for number in map(int, os.listdir(where)):
        try:
            os.fstat(number)
        except OSError:
            continue  # the descriptor of the listing itself
        found[number] = os.readlink(f"/proc/self/fd/{number}") if where.startswith("/proc") else ""
    return found


@contextlib.contextmanager
def full_queue(path):
    """Clients that nobody accepts, as many as the queue at `path` has room for."""
    with contextlib.ExitStack() as stack:
        with pytest.raises(BlockingIOError):
            while True:
                client = stack.enter_context(socket.socket(socket.AF_UNIX))
                client.settimeout(0)
                client.connect(path)
        yield
