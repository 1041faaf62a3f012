"""The name of a socket: lock it, is anyone there, clear what is stale; set its permission bits.

Unlinking before bind(2) robs a running server, and connecting as a client to find out is answered like a dead
name by a server that has not called listen(2) yet. Invariant: only a socket that nobody has bound is unlinked, and
only under the lock: without it, two starters would unlink each other's.
"""

from __future__ import annotations

import errno
import os
import socket
import stat
import sys

from unixsock._errors import ServerBound, name_path
from unixsock._lock_file import acquire, release

# PyPy has no os.O_PATH; the number is the same wherever PyPy runs.
_O_PATH = getattr(os, "O_PATH", 0o10000000)


def claim(path: str | bytes, lock_path: str | bytes, *, create: bool) -> int:
    """The descriptor that holds the lock of `path`, where nothing stands any more; the caller owns it.

    How a start begins, and how a close ends. While the lock is held, no other user of this library binds, clears or
    unlinks the name. LockHeld or ServerBound when the name has an owner.
    """
    try:
        lock = acquire(lock_path, create=create)
    except (FileNotFoundError, NotADirectoryError) as error:
        name_path(error, path)  # it is the directory that is not there, for the one as for the other
        raise
    try:
        _clear_stale(path)
    except BaseException:
        release(lock)
        raise
    return lock


def _clear_stale(path: str | bytes) -> None:
    """Unlink `path` if it is a dead socket; the caller holds the lock.

    ServerBound when somebody is bound there, FileExistsError when it is not a socket.
    """
    try:
        # lstat: a link is not a socket, whatever it points to.
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            raise FileExistsError(errno.EEXIST, "File exists and is not a socket")
        # Changes nothing, but waits for the directory's lock, and so for a bind(2) that has made its file and
        # cannot be found through it yet. Without this, names were unlinked that had just come to life.
        os.rename(path, path)
        _refuse_if_bound(path)
        # The lock proves that no other user of this library has bound here, the looks that no other server
        # has. One without the lock can still unlink and bind between the looks and this line: POSIX has no
        # compare-and-unlink.
        os.unlink(path)
    except FileNotFoundError:
        pass  # gone, whoever removed it
    except OSError as error:
        name_path(error, path)
        raise


def _refuse_if_bound(path: str | bytes) -> None:
    """Return when nobody is bound at `path`, ServerBound when somebody is; raise any other answer, never guess.

    Asked with a datagram socket: the kernel looks the server up and compares the types before anything reaches it.
    Asked as a client would, a running server gets a phantom connection, one with a full backlog gives EAGAIN, and
    one between its bind and its listen gives ECONNREFUSED, like a dead one.
    """
    answer = _connect(path, socket.SOCK_DGRAM)
    # EPROTOTYPE: a stream or seqpacket socket is bound, whether or not it listens. 0: a datagram socket is.
    if answer in (0, errno.EPROTOTYPE):
        raise ServerBound
    if answer == errno.ECONNREFUSED:
        # Nobody; but gVisor says so of a live stream socket, too, hence the second look. Everywhere else nobody
        # is there whom it could disturb.
        answer = _connect(path, socket.SOCK_STREAM)
        if answer == errno.ECONNREFUSED:
            return
        if answer in (0, errno.EAGAIN, errno.EPROTOTYPE):
            raise ServerBound
    elif answer == errno.EPERM and _connect(path, socket.SOCK_STREAM) == errno.EPROTOTYPE:
        # A datagram socket that is connected elsewhere. EPERM alone may also come from a security module.
        raise ServerBound
    raise OSError(answer, os.strerror(answer))


def _connect(path: str | bytes, kind: int) -> int:
    """The errno of connect(2), 0 when it succeeds."""
    with socket.socket(socket.AF_UNIX, kind) as probe:
        if kind == socket.SOCK_STREAM:
            probe.settimeout(0)  # a full backlog must not hold us; with a datagram socket nothing waits
        return probe.connect_ex(path)


def narrow_mode(sock: socket.socket, mode: int) -> None:
    """Let bind(2) give the socket file no bits beyond `mode`, where the system can (Linux)."""
    try:
        os.fchmod(sock.fileno(), mode)
    except OSError as error:
        # macOS and the BSDs know no mode of a socket that has no name. A stream socket loses nothing by it, since
        # it refuses everyone until listen(2); a datagram socket has bind(2)'s own bits until set_mode().
        if error.errno != errno.EINVAL:
            raise


def set_mode(path: str | bytes, mode: int) -> None:
    """Give the socket file at `path` exactly the bits `mode`. Never umask(2): it belongs to the whole process."""
    if stat.S_IMODE(os.lstat(path).st_mode) == mode:
        return
    # A link that somebody with rights in the directory has put in the name's place must not be followed: root's
    # 0600 file became 0666 that way.
    if sys.platform != "linux":
        os.chmod(path, mode, follow_symlinks=False)
        return
    name = os.open(path, _O_PATH | os.O_NOFOLLOW)
    try:
        if not stat.S_ISSOCK(os.fstat(name).st_mode):
            raise FileExistsError(errno.EEXIST, "Replaced by something that is not a socket")
        try:
            os.chmod(f"/proc/self/fd/{name}", mode)
        except FileNotFoundError:
            raise FileNotFoundError(errno.ENOENT, "Mode cannot be set without /proc") from None
    finally:
        os.close(name)
