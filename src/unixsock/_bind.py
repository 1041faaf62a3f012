"""bind_exclusive and bind_abstract: the only place that knows the order of the steps.

A guard made after bind(2) loses the socket file to an interrupt that arrives in between. Invariant: what is bound
has its guard already, so that from there on undoing anything is closing the guard.
"""

from __future__ import annotations

import errno
import os
import socket
import time

from unixsock._arguments import (
    checked_backlog,
    checked_mode,
    checked_name,
    checked_path,
    checked_timeout,
    checked_type,
)
from unixsock._errors import AddressInUseError, LockHeld, ServerBound, Taken, name_path
from unixsock._guard import Guard
from unixsock._lock_file import path_of_lock, release, taken_by
from unixsock._socket_file import claim, narrow_mode, set_mode

_FIRST_PAUSE = 0.001  # seconds; doubles at each try
_LONGEST_PAUSE = 0.05


def bind_exclusive(
    path: str | bytes | os.PathLike[str] | os.PathLike[bytes],
    *,
    type: int = socket.SOCK_STREAM,
    mode: int | None = None,
    backlog: int | None = None,
    timeout: float | None = 0.0,
) -> tuple[socket.socket, Guard]:
    """Bind a Unix-domain socket to `path` as its only owner, whatever an earlier owner left behind.

    Takes flock(2) on ``path + ".lock"``, unlinks a dead socket at `path`, binds, listens. The lock file is made where
    it is missing, for its owner alone (mode 0600 less the umask), and stays for good: do not remove it.

    Args:
        path: where the socket file goes, ``str``, ``bytes`` or ``os.PathLike``. A relative one is joined to the
            working directory once, here; it is never normalised. At most 107 bytes in absolute form (103 on macOS
            and the BSDs), as unix(7) limits ``sun_path``.
        type: ``SOCK_STREAM`` (default), ``SOCK_SEQPACKET`` or ``SOCK_DGRAM``.
        mode: permission bits that the socket file gets exactly, whatever the umask: ``int`` from 0 to 0o777 that has
            0o200. None (default): 0o777 less the umask, as bind(2) does. A stream or seqpacket socket never has
            others while clients can connect; a datagram socket elsewhere than on Linux has bind(2)'s for a moment.
        backlog: as `socket.listen` takes it, ``int``; None (default): its default. Of no effect with SOCK_DGRAM.
        timeout: seconds to wait for the present owner to let go. 0 (default): do not wait; None: no limit. Waiting
            is trying anew every 50 ms at the most; it blocks the calling thread, and is not fair among waiters.

    Returns:
        The socket, bound, listening unless it is a datagram socket, otherwise as ``socket.socket()`` makes it; and
        the `Guard` that keeps the lock. Both descriptors are close-on-exec. Close the guard to give the name up.

    Raises:
        AddressInUseError: EADDRINUSE, somebody owns the address. Its ``owner`` is the pid that took the lock, None
            where the system does not tell or a server without the lock is bound there.
        FileExistsError: EEXIST, what stands at `path` is not a socket. It is left alone.
        FileNotFoundError, PermissionError, OSError: the system's own: ENOENT or ENOTDIR, no such directory;
            EACCES; EROFS; ENOLCK or EOPNOTSUPP, no locks on this filesystem; ELOOP, EISDIR, ENXIO or EINVAL (elsewhere
            than on Linux also others), the lock file is a symbolic link or not a regular file; EBUSY, the lock file
            keeps being removed or replaced; ENAMETOOLONG, `path` is too long. ``filename`` is the path that the error
            is about: the socket's or the lock file's.
        TypeError, ValueError, OverflowError: an argument is wrong; nothing has been created.

    A call that raises leaves no descriptor, no lock and no socket file of its own; the lock file may stay. (An
    interrupt between a system call's return and its assignment in Python, or just before a descriptor is closed, can
    leak that one descriptor. Up to CPython 3.10 and on PyPy, one that comes as a function returns can lose the guard.)

    Promised: until the last process that holds the socket and the lock lets go, no other ``bind_exclusive(path)`` on
    this machine succeeds; once all are gone, SIGKILL included, the next one does. Not promised: anything against
    those who remove the lock file, or unlink the name without asking for the lock.

    Example::

        sock, guard = unixsock.bind_exclusive("/run/app/app.sock", mode=0o660)
        with guard:
            asyncio.run(serve(sock))
    """
    given = os.fspath(path)
    absolute = checked_path(given)
    lock_path = path_of_lock(absolute)
    kind = checked_type(type)
    bits = checked_mode(mode)
    length = checked_backlog(backlog)
    seconds = checked_timeout(timeout)

    try:
        return _retried(seconds, absolute, lock_path, kind, bits, length)
    except LockHeld:
        owner = taken_by(lock_path)
        who = "another process or guard" if owner is None else f"pid {owner}"
        raise _in_use(given, f"taken by {who}", owner) from None
    except ServerBound:
        raise _in_use(given, "the lock is not in the way: a server that does not hold it is bound there") from None


def bind_abstract(
    name: str | bytes,
    *,
    type: int = socket.SOCK_STREAM,
    backlog: int | None = None,
    timeout: float | None = 0.0,
) -> tuple[socket.socket, Guard]:
    """Bind a Unix-domain socket to the abstract `name` (Linux), which is no file and cannot become stale.

    The kernel excludes a second owner and frees the name with the last descriptor of the socket (unix(7)), so there
    is no lock. A name is taken per socket type: a stream and a datagram socket can share one.

    Args:
        name: 1 to 107 bytes, without the leading NUL, which is added here; ``str`` is encoded as `os.fsencode` does.
            NUL bytes are allowed.
        type: ``SOCK_STREAM`` (default), ``SOCK_SEQPACKET`` or ``SOCK_DGRAM``.
        backlog: as `socket.listen` takes it, ``int``; None (default): its default. Of no effect with SOCK_DGRAM.
        timeout: seconds to wait for the present owner to let go, as in `bind_exclusive`.

    Returns:
        The socket, bound, and listening unless it is a datagram socket; and the `Guard` that closes it, whose
        ``lock_path`` is None and which has no ``fileno()``.

    Raises:
        AddressInUseError: EADDRINUSE, the name is taken. ``owner`` is None.
        OSError: EOPNOTSUPP, this is not Linux; ENAMETOOLONG, `name` is too long. ``filename`` is `name` as given.
        TypeError, ValueError, OverflowError: an argument is wrong; nothing has been created.

    Not promised: any protection. An abstract name has no permissions: every user in the network namespace can
    connect, or take the name first. Ask for the peer's credentials (SO_PEERCRED, unix(7)).

    Example::

        sock, guard = unixsock.bind_abstract("com.example.app")
        with guard:
            sock.accept()
    """
    address = checked_name(name)
    kind = checked_type(type)
    length = checked_backlog(backlog)
    seconds = checked_timeout(timeout)

    try:
        return _retried(seconds, address, None, kind, None, length)
    except ServerBound:
        raise _in_use(name, "abstract name") from None
    except OSError as error:
        name_path(error, name)
        raise


def _retried(
    seconds: float,
    address: str | bytes,
    lock_path: str | bytes | None,
    kind: int,
    mode: int | None,
    backlog: int | None,
) -> tuple[socket.socket, Guard]:
    """Try until the address is not `Taken` or `seconds` are over. Nothing is held between tries."""
    deadline = time.monotonic() + seconds
    pause = _FIRST_PAUSE
    while True:
        try:
            return _bound(address, lock_path, kind, mode, backlog)
        except Taken:
            left = deadline - time.monotonic()
            if left <= 0:
                raise
        time.sleep(min(pause, left))
        pause = min(2 * pause, _LONGEST_PAUSE)


def _bound(
    address: str | bytes, lock_path: str | bytes | None, kind: int, mode: int | None, backlog: int | None
) -> tuple[socket.socket, Guard]:
    """One try: a new socket, bound and listening, and its guard. `lock_path` is None for an abstract name."""
    lock = None if lock_path is None else claim(address, lock_path, create=True)
    try:
        sock = socket.socket(socket.AF_UNIX, kind)
        try:
            guard = Guard(address, lock_path, sock, lock)
        except BaseException:
            sock.close()
            raise
    except BaseException as error:
        if lock is not None:
            release(lock)
        name_path(error, address)
        raise
    try:
        if mode is not None:
            narrow_mode(sock, mode)
        _bind(sock, address)
        if mode is not None:
            set_mode(address, mode)  # before listen: until then a stream socket refuses everyone
        if kind != socket.SOCK_DGRAM:
            if backlog is None:
                sock.listen()
            else:
                sock.listen(backlog)
        return sock, guard  # noqa: TRY300 - an interrupt on the way out is undone, too
    except BaseException as error:
        name_path(error, address)
        try:
            guard.close()
        except OSError:
            pass  # its descriptors are gone all the same, and what went wrong first says more
        raise


def _bind(sock: socket.socket, address: str | bytes) -> None:
    try:
        sock.bind(address)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            # For a path: somebody without the lock has been faster, after the name was cleared.
            raise ServerBound from None
        raise


def _in_use(given: str | bytes, why: str, owner: int | None = None) -> AddressInUseError:
    return AddressInUseError(errno.EADDRINUSE, f"{os.strerror(errno.EADDRINUSE)} ({why})", given, owner=owner)
