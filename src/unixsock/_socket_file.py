"""The socket file: probe whether a socket is bound there, remove it if it is stale, set its group and permission bits.

Unlinking before bind(2) takes the path from a running server. Connecting as a client to find out fails too: a server
that has not called listen(2) yet answers like one that has gone. Invariant: a socket file is unlinked only under the
lock, and only if no socket is bound to it. Without the lock, two servers that start unlink each other's files. One
moment remains: see clear_stale().
"""

from __future__ import annotations

import _socket  # the interpreter's own sockets, whatever an event loop has put in the place of socket.socket
import errno
import os
import stat
import sys
from collections.abc import Callable

from unixsock._arguments import LINUX, Access
from unixsock._errors import errno_of, kind_of

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
        _wait_for_bind(path)
        if _is_bound(path):
            raise ServerBound
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
        if error.errno != errno.ENOENT:  # else it has already gone
            raise


def narrow_mode(sock: int, access: Access) -> None:
    """Make bind(2) of the descriptor `sock` give the socket file no bits beyond the mode, where it can (Linux).

    The bits of a group come with the group, in set_access(): until then they would be another group's.
    """
    mode, gid, _ = access
    answer = errno_of(os.fchmod, sock, mode if gid == -1 else mode & ~0o070)
    # EINVAL: macOS and most BSDs have no mode for a socket that is not bound. A stream socket loses nothing by it: it
    # refuses every client until listen(2). A datagram socket has the bits of bind(2) until set_access().
    if answer not in (0, errno.EINVAL):
        raise OSError(answer, os.strerror(answer))


def set_access(path: str, access: Access) -> None:
    """Give the socket file at `path` its group, then exactly its permission bits.

    Never by umask(2): that belongs to the whole process.
    """
    # A user with rights in the directory can put a link, or another file, in the place of the socket file. Following a
    # link made root's 0600 file 0666. So one descriptor serves every step; elsewhere the path does, never followed.
    if sys.platform not in LINUX:
        _set_access(path, lambda: os.lstat(path), *access)
        return
    file = os.open(path, _O_PATH | os.O_NOFOLLOW)
    try:
        # Not /proc/self: in a thread with a descriptor table of its own, this number is another file there.
        _set_access(f"/proc/thread-self/fd/{file}", lambda: os.fstat(file), *access)
    finally:
        os.close(file)


def _set_access(target: str, look: Callable[[], os.stat_result], mode: int, gid: int, group: object) -> None:
    _require_socket(look())
    if gid != -1:
        # Even if it looks right: in a user namespace, every group that is not mapped looks like 65534.
        denied = {errno.EPERM: "only its members and root may", errno.EINVAL: "this user namespace does not map it"}
        _change(f"group {group!r}", denied, os.chown, target, -1, gid)
    if stat.S_IMODE(look().st_mode) != mode:
        _change("mode", {}, os.chmod, target, mode)
    found = look()
    bits = stat.S_IMODE(found.st_mode)
    if bits != mode or gid not in (-1, found.st_gid):
        stays = f"mode stays {bits:#o}, not {mode:#o}" if bits != mode else f"group stays {found.st_gid}, not {group!r}"
        words = f"{os.strerror(errno.EPERM)} ({stays}: the filesystem ignores the change, or a program undid it)"
        raise PermissionError(errno.EPERM, words)


def _change(what: str, hints: dict[int, str], call: Callable[..., None], target: str, *values: int) -> None:
    answer = errno_of(call, target, *values, follow_symlinks=sys.platform in LINUX)
    if answer:
        hint = "mount /proc" if answer == errno.ENOENT and "/proc/" in target else hints.get(answer, "it is refused")
        raise OSError(answer, f"{os.strerror(answer)} ({what} cannot be set: {hint})")


def _require_socket(file: os.stat_result) -> None:
    if not stat.S_ISSOCK(file.st_mode):
        words = f"{os.strerror(errno.EEXIST)} and is {kind_of(file.st_mode)}, not a socket; move it or use another path"
        raise FileExistsError(errno.EEXIST, words)


def _wait_for_bind(path: str) -> None:
    """Wait for a bind(2) that has made its file and cannot be found through it yet.

    Renaming a path onto itself changes nothing, but waits for the directory's lock, which such a bind(2) holds. Without
    this, socket files were unlinked that had just become live.
    """
    answer = errno_of(os.rename, path, path)
    if answer:
        raise OSError(answer, os.strerror(answer))  # the error of os.rename itself names the path twice


def _is_bound(path: str) -> bool:
    """Whether a socket is bound at `path`. Raise any answer that does not tell; never guess.

    Probed with a datagram socket: the kernel finds the server and compares the types before anything reaches it. To a
    client's connect, a running server would get a phantom connection, a full backlog answers EAGAIN, and a server
    between its bind and its listen answers ECONNREFUSED, as if it had gone.
    """
    # EPROTOTYPE: a socket of another type is bound, whether or not it listens. 0: one of this type is. ECONNRESET
    # (macOS and the BSDs): one was, and is closing just now.
    live = {0, errno.EPROTOTYPE, errno.ECONNRESET}
    answer = _connect_errno(path, _socket.SOCK_DGRAM)
    if answer == errno.ECONNREFUSED:
        # Usually nothing is bound. gVisor gives the same answer for a live stream socket, so probe again with one.
        # Where nothing is bound, that disturbs nobody.
        answer = _connect_errno(path, _socket.SOCK_STREAM)
        if answer == errno.ECONNREFUSED:
            return False
        live.add(errno.EAGAIN)  # its backlog is full
    elif answer == errno.EPERM and _connect_errno(path, _socket.SOCK_STREAM) == errno.EPROTOTYPE:
        return True  # a datagram socket that is connected elsewhere; EPERM alone may come from a security module
    if answer in live:
        return True
    raise OSError(answer, os.strerror(answer))


def _connect_errno(path: str, type: int) -> int:
    """The errno of connect(2), 0 when it succeeds."""
    probe = _socket.socket(_socket.AF_UNIX, type)
    try:
        # A full backlog must not block us; and after a signal, a blocking connect_ex() polls, and answers 0.
        probe.settimeout(0)
        return probe.connect_ex(path)
    finally:
        probe.close()
