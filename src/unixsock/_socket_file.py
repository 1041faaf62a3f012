"""The socket file: probe whether a socket is bound there, remove it if it is stale, set its permission bits.

Unlinking before bind(2) takes the path from a running server. Connecting as a client to find out fails too: a server
that has not called listen(2) yet answers like a dead one. Invariant: a socket file is unlinked only under the lock, and
only if no socket is bound to it. Without the lock, two starters unlink each other's files. One moment remains: see
clear_stale().
"""

from __future__ import annotations

import _socket  # the interpreter's own sockets, whatever an event loop has put in the place of socket.socket
import errno
import os
import stat
import sys

from unixsock._errors import attempt, errno_of, kind_of, name_path

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
        found = os.lstat(path)
        _require_socket(found)
        # Changes nothing, but waits for the directory's lock, and so for a bind(2) that has made its file and cannot
        # be found through it yet. Without this, socket files were unlinked that had just become live.
        attempt(os.rename, path, path)  # the error of os.rename itself names the path twice
        _probe(path)
        # A program without the lock may have replaced the file meanwhile. Not by the inode alone: ext4 gives the number
        # of an unlinked file to the next file at once.
        now = os.lstat(path)
        _require_socket(now)
        if not os.path.samestat(found, now) or found.st_ctime_ns != now.st_ctime_ns:
            raise ServerBound
        # The lock proves that no other user of this library has bound here, the probe that no other server has. A
        # program without the lock can still replace the file between lstat and this line: POSIX has no
        # compare-and-unlink.
        os.unlink(path)
    except OSError as error:
        if error.errno == errno.ENOENT:
            return  # already gone
        name_path(error, path)
        raise


def narrow_mode(sock: int, mode: int) -> None:
    """Make bind(2) of the descriptor `sock` give the socket file no bits beyond `mode`, where it can (Linux)."""
    # EINVAL: macOS and the BSDs have no mode for a socket that is not bound. A stream socket loses nothing by it: it
    # refuses every client until listen(2). A datagram socket has the bits of bind(2) until set_mode().
    attempt(os.fchmod, sock, mode, expected=errno.EINVAL)


def set_mode(path: str, mode: int) -> None:
    """Give the socket file at `path` exactly the bits `mode`. Never by umask(2): that belongs to the whole process."""
    if _mode(path) == mode:
        return
    _chmod(path, mode)
    bits = _mode(path)
    if bits != mode:
        words = f"Mode stays {bits:#o}, not {mode:#o}: the filesystem ignores chmod, or a program undoes it"
        raise PermissionError(errno.EPERM, words)


def _mode(path: str) -> int:
    found = os.lstat(path)
    _require_socket(found)  # a symbolic link has the bits 0o777
    return stat.S_IMODE(found.st_mode)


def _chmod(path: str, mode: int) -> None:
    # A user with rights in the directory can put a link in the place of the socket file. Following it made root's 0600
    # file 0666.
    if sys.platform not in ("linux", "android"):
        os.chmod(path, mode, follow_symlinks=False)
        return
    file = os.open(path, _O_PATH | os.O_NOFOLLOW)
    try:
        _require_socket(os.fstat(file))
        # Not /proc/self: in a thread with a descriptor table of its own, this number is another file there.
        answer = errno_of(os.chmod, f"/proc/thread-self/fd/{file}", mode)
        if answer:
            words = f"Mode cannot be set through /proc ({os.strerror(answer)}): set the umask, or mount /proc"
            raise OSError(answer, words)
    finally:
        os.close(file)


def _require_socket(file: os.stat_result) -> None:
    if not stat.S_ISSOCK(file.st_mode):
        words = f"{os.strerror(errno.EEXIST)} and is {kind_of(file.st_mode)}, not a socket; move it or use another path"
        raise FileExistsError(errno.EEXIST, words)


def _probe(path: str) -> None:
    """Return when no socket is bound at `path`, ServerBound when one is. Raise any other answer; never guess.

    Probed with a datagram socket: the kernel finds the server and compares the types before anything reaches it. To a
    client's connect, a running server would get a phantom connection, a full backlog answers EAGAIN, and a server
    between its bind and its listen answers ECONNREFUSED, like a dead one.
    """
    answer = _connect_errno(path, _socket.SOCK_DGRAM)
    # EPROTOTYPE: a stream or seqpacket socket is bound, whether or not it listens. 0: a datagram socket is.
    if answer in (0, errno.EPROTOTYPE):
        raise ServerBound
    if answer == errno.ECONNREFUSED:
        # Usually nothing is bound. gVisor gives the same answer for a live stream socket, so probe again with one.
        # Where nothing is bound, that disturbs nobody.
        answer = _connect_errno(path, _socket.SOCK_STREAM)
        if answer == errno.ECONNREFUSED:
            return
        if answer in (0, errno.EAGAIN, errno.EPROTOTYPE):
            raise ServerBound
    elif answer == errno.EPERM and _connect_errno(path, _socket.SOCK_STREAM) == errno.EPROTOTYPE:
        # A datagram socket that is connected elsewhere. EPERM alone may also come from a security module.
        raise ServerBound
    raise OSError(answer, os.strerror(answer))


def _connect_errno(path: str, type: int) -> int:
    """The errno of connect(2), 0 when it succeeds."""
    probe = _socket.socket(_socket.AF_UNIX, type)
    try:
        if type == _socket.SOCK_STREAM:
            probe.settimeout(0)  # a full backlog must not block us; a datagram socket never waits
        return probe.connect_ex(path)
    finally:
        probe.close()
