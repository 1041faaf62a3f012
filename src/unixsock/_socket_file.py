"""The socket file: probe whether a socket is bound there, remove it if it is stale, set its permission bits.

Unlinking before bind(2) takes the path from a running server. Connecting as a client to find out fails too: a server
that has not called listen(2) yet answers like a dead one. Invariant: only a socket file that no socket is bound to is
unlinked, and only under the lock; without it, two starters would unlink each other's.
"""

from __future__ import annotations

import errno
import os
import socket
import stat
import sys

from unixsock._errors import name_path

# PyPy has no os.O_PATH; the number is the same wherever PyPy runs.
_O_PATH = getattr(os, "O_PATH", 0o10000000)


class ServerBound(Exception):  # noqa: N818 - a verdict between our modules; the caller may wait and try again
    """A socket is bound at the path, although its process does not hold our lock."""


def clear_stale(path: str) -> None:
    """Unlink `path` if it is a stale socket file. The caller holds the lock.

    ServerBound when a socket is bound there, FileExistsError when the file is not a socket.
    """
    try:
        # lstat: a link is not a socket, whatever it points to.
        _require_socket(os.lstat(path))
        # Changes nothing, but waits for the directory's lock, and so for a bind(2) that has made its file and cannot
        # be found through it yet. Without this, socket files were unlinked that had just become live.
        os.rename(path, path)
        _probe(path)
        # The lock proves that no other user of this library has bound here, the probe that no other server has. A
        # server without the lock can still unlink and bind between the probe and this line: POSIX has no
        # compare-and-unlink.
        os.unlink(path)
    except OSError as error:
        if error.errno == errno.ENOENT:
            return  # already gone
        name_path(error, path)
        raise


def narrow_mode(sock: socket.socket, mode: int) -> None:
    """Make bind(2) give the socket file no bits beyond `mode`, where the system can (Linux)."""
    try:
        os.fchmod(sock.fileno(), mode)
    except OSError as error:
        # macOS and the BSDs have no mode for a socket that is not bound. A stream socket loses nothing by it: it
        # refuses every client until listen(2). A datagram socket has the bits of bind(2) until set_mode().
        if error.errno != errno.EINVAL:
            raise


def set_mode(path: str, mode: int) -> None:
    """Give the socket file at `path` exactly the bits `mode`. Never by umask(2): that belongs to the whole process."""
    if stat.S_IMODE(os.lstat(path).st_mode) == mode:
        return
    # A user with rights in the directory can put a link in the place of the path. Following it made root's 0600 file
    # 0666.
    if sys.platform not in ("linux", "android"):
        os.chmod(path, mode, follow_symlinks=False)
        return
    name = os.open(path, _O_PATH | os.O_NOFOLLOW)
    try:
        _require_socket(os.fstat(name))
        try:
            os.chmod(f"/proc/self/fd/{name}", mode)
        except FileNotFoundError:
            raise FileNotFoundError(errno.ENOENT, "Mode cannot be set without /proc") from None
    finally:
        os.close(name)


def _require_socket(file: os.stat_result) -> None:
    if not stat.S_ISSOCK(file.st_mode):
        raise FileExistsError(errno.EEXIST, f"{os.strerror(errno.EEXIST)} and is not a socket")


def _probe(path: str) -> None:
    """Return when no socket is bound at `path`, ServerBound when one is. Raise any other answer; never guess.

    Probed with a datagram socket: the kernel finds the server and compares the types before anything reaches it. To a
    client's connect, a running server would get a phantom connection, a full backlog answers EAGAIN, and a server
    between its bind and its listen answers ECONNREFUSED, like a dead one.
    """
    answer = _connect_errno(path, socket.SOCK_DGRAM)
    # EPROTOTYPE: a stream or seqpacket socket is bound, whether or not it listens. 0: a datagram socket is.
    if answer in (0, errno.EPROTOTYPE):
        raise ServerBound
    if answer == errno.ECONNREFUSED:
        # Usually nothing is bound. gVisor gives the same answer for a live stream socket, so probe again with one.
        # Where nothing is bound, that disturbs nobody.
        answer = _connect_errno(path, socket.SOCK_STREAM)
        if answer == errno.ECONNREFUSED:
            return
        if answer in (0, errno.EAGAIN, errno.EPROTOTYPE):
            raise ServerBound
    elif answer == errno.EPERM and _connect_errno(path, socket.SOCK_STREAM) == errno.EPROTOTYPE:
        # A datagram socket that is connected elsewhere. EPERM alone may also come from a security module.
        raise ServerBound
    raise OSError(answer, os.strerror(answer))


def _connect_errno(path: str, type: int) -> int:
    """The errno of connect(2), 0 when it succeeds."""
    with socket.socket(socket.AF_UNIX, type) as probe:
        if type == socket.SOCK_STREAM:
            probe.settimeout(0)  # a full backlog must not block us; a datagram socket never waits
        return probe.connect_ex(path)
