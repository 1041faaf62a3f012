"""bind_exclusive and bind_abstract: check, lock, clear, socket, guard, bind, access, listen.

A guard made after bind(2) loses the socket file to an interrupt that arrives in between. Invariant: what is bound has
its guard already, so that from there on undoing anything is closing the guard.
"""

from __future__ import annotations

import errno
import io
import os
import socket
import time

from unixsock import _arguments as arguments
from unixsock._errors import errno_of
from unixsock._guard import Guard
from unixsock._lock_file import LockHeld, acquire
from unixsock._refusal import explain, in_use
from unixsock._socket_file import ServerBound, clear_stale, narrow_mode, set_access

_FIRST_PAUSE = 0.001  # seconds; doubles at each try
_LONGEST_PAUSE = 0.01


def bind_exclusive(
    path: str | bytes | os.PathLike[str] | os.PathLike[bytes],
    *,
    type: int = socket.SOCK_STREAM,
    mode: int | None = None,
    group: str | int | None = None,
    backlog: int | None = None,
    timeout: float | None = 0.0,
) -> tuple[socket.socket, Guard]:
    """Bind a Unix-domain socket to `path` as its only owner, whatever an earlier owner left behind.

    Args:
        path: where the socket file goes. A relative path is joined to the working directory once; the result may have
            at most 107 bytes (unix(7); 103 on macOS and the BSDs).
        type: ``SOCK_STREAM`` (default), ``SOCK_SEQPACKET`` or ``SOCK_DGRAM``.
        mode: the exact permission bits of the socket file, whatever the umask. They must include 0o200, the owner's
            write permission, without which the next server to start cannot find out whether the file is stale. None
            (default): 0o777 less the umask. A stream socket never has other bits while clients can connect.
        group: the group of the socket file, by name (``str``) or number (``int``). `mode` must include 0o020, the
            group's write permission, because members cannot connect without it. The process must be a member of the
            group, or root. On Linux, no other group ever has the group's bits. None (default): the group that the
            system gives to a new file.
        backlog: as for `socket.listen`; None (default): its default.
        timeout: seconds to wait for the present owner, in this thread. 0 (default): fail at once. None: no limit.

    Returns:
        The socket, bound, and listening unless it is a datagram socket; and the `Guard` that holds flock(2) on
        ``path + ".lock"``. Keep the guard for as long as you serve, because the lock is released when the guard is
        closed or dropped. The lock file stays on disk; do not remove it.

    Raises:
        AddressInUseError: the path has an owner; ``owner_pid`` is its pid, where the system reports it.
        FileExistsError: the file at `path` is not a socket. It is left alone.
        OSError: the system's own error, such as a missing directory (it is not created), no permission, or a
            filesystem without locks. ``filename`` is the path or the lock file, and the message adds in parentheses
            what can be seen of the cause.
        TypeError, ValueError, OverflowError: an argument is wrong.

    While any process holds the socket or the lock, every other ``bind_exclusive`` of `path` on this machine fails.
    Once the kernel has released both, even after SIGKILL, the next one succeeds. A call that fails leaves nothing but
    the lock file. Programs that do not use the lock can still unlink the path.

    Example::

        sock, guard = unixsock.bind_exclusive("/run/app/app.sock", mode=0o660)
        with guard:
            asyncio.run(serve(sock))
    """
    address = arguments.checked_path(path)
    type = arguments.checked_type(type)
    access = arguments.checked_access(mode, group)
    backlog = arguments.checked_backlog(backlog)
    timeout = arguments.checked_timeout(timeout)
    return _bind_once_free(address, type, access, backlog, timeout)


def bind_abstract(
    name: str | bytes, *, type: int = socket.SOCK_STREAM, backlog: int | None = None, timeout: float | None = 0.0
) -> tuple[socket.socket, Guard]:
    """Bind a Unix-domain socket to the abstract `name` (Linux), which is not a file and cannot become stale.

    The kernel excludes a second owner and frees the name with the last descriptor of the socket (unix(7)), so there
    is no lock. A name is taken per socket type: a stream and a datagram socket can share one.

    Args:
        name: 1 to 107 bytes, without the leading NUL, which is added here; ``str`` is encoded as by `os.fsencode`.
        type: ``SOCK_STREAM`` (default), ``SOCK_SEQPACKET`` or ``SOCK_DGRAM``.
        backlog: as for `socket.listen`; None (default): its default.
        timeout: seconds to wait for the present owner, as for `bind_exclusive`.

    Returns:
        The socket, bound, and listening unless it is a datagram socket; and the `Guard` that closes it. Its
        ``lock_path`` is None, and it has no ``fileno()``.

    Raises:
        AddressInUseError: the name is taken. ``owner_pid`` is None.
        OSError: EOPNOTSUPP if this is not Linux, ENAMETOOLONG if `name` is too long. ``filename`` is the name.
        TypeError, ValueError, OverflowError: an argument is wrong.

    An abstract name has no permissions: every user in the network namespace can connect, or take the name first. Check
    the peer's credentials (SO_PEERCRED, unix(7)).

    Example::

        sock, guard = unixsock.bind_abstract("com.example.app")
        with guard:
            sock.accept()
    """
    address = arguments.checked_name(name)
    type = arguments.checked_type(type)
    backlog = arguments.checked_backlog(backlog)
    timeout = arguments.checked_timeout(timeout)
    return _bind_once_free(address, type, None, backlog, timeout)


def _bind_once_free(
    address: str, type: int, access: arguments.Access | None, backlog: int | None, timeout: float
) -> tuple[socket.socket, Guard]:
    """Try until `address` is free, or for `timeout` seconds. Nothing is held between two tries."""
    deadline = time.monotonic() + timeout
    pause = _FIRST_PAUSE
    while True:
        try:
            return _bind(address, type, access, backlog)
        except (LockHeld, ServerBound) as verdict:
            left = deadline - time.monotonic()
            if left <= 0:
                raise in_use(address, verdict) from None
        except OSError as error:
            explain(error, address)
            raise
        time.sleep(min(pause, left))
        pause = min(2 * pause, _LONGEST_PAUSE)


def _bind(address: str, type: int, access: arguments.Access | None, backlog: int | None) -> tuple[socket.socket, Guard]:
    """One try, step by step as docs/protocol.md has it. LockHeld or ServerBound when the address has an owner."""
    lock = None if arguments.is_abstract(address) else acquire(address, create=True)
    held: io.FileIO | Guard | None = lock  # what undoing has to close
    try:
        if lock is not None:
            clear_stale(address)
        sock = socket.socket(socket.AF_UNIX, type)
        held = guard = Guard(address, sock, lock)
        if access is not None:
            narrow_mode(sock.fileno(), access)
        try:
            sock.bind(address)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise ServerBound from None  # a path: a server without the lock bound it after it was cleared
            raise
        if access is not None:
            set_access(address, access)  # before listen: until then a stream socket refuses every client
        if type != socket.SOCK_DGRAM:
            sock.listen() if backlog is None else sock.listen(backlog)
        return sock, guard  # noqa: TRY300 - an interrupt on the way out is undone, too
    except BaseException:
        # Until it is closed: a signal handler's error at the entry of close() would leave it open.
        while held is not None and not held.closed:
            errno_of(held.close)  # ignored: the first error says more
        raise
