"""bind_exclusive and bind_abstract: check, guard, claim, socket, bind, mode, listen.

A guard made after bind(2) loses the socket file to an interrupt that arrives in between. Invariant: what is bound has
its guard already, so that from there on undoing anything is closing the guard.
"""

from __future__ import annotations

import errno
import os
import socket
import time
from collections.abc import Callable

from unixsock._arguments import checked_backlog, checked_mode, checked_name, checked_path, checked_timeout, checked_type
from unixsock._errors import AddressInUseError, attempt, errno_of, name_path
from unixsock._guard import Guard, claim
from unixsock._lock_file import LockHeld, lock_path_of, owner_pid
from unixsock._socket_file import ServerBound, narrow_mode, set_mode

_Bound = tuple[socket.socket, Guard]

_FIRST_PAUSE = 0.001  # seconds; doubles at each try
_LONGEST_PAUSE = 0.01


def bind_exclusive(
    path: str | bytes | os.PathLike[str] | os.PathLike[bytes],
    *,
    type: int = socket.SOCK_STREAM,
    mode: int | None = None,
    backlog: int | None = None,
    timeout: float | None = 0.0,
) -> tuple[socket.socket, Guard]:
    """Bind a Unix-domain socket to `path` as its only owner, whatever an earlier owner left behind.

    Args:
        path: of the socket file, joined to the working directory once. At most 107 bytes then (unix(7); 103 on macOS
            and the BSDs).
        type: ``SOCK_STREAM`` (default), ``SOCK_SEQPACKET`` or ``SOCK_DGRAM``.
        mode: permission bits of the socket file, exactly, whatever the umask; they must include 0o200. None
            (default): 0o777 less the umask. A stream socket never has other bits while clients can connect.
        backlog: as for `socket.listen`; None (default): its default.
        timeout: seconds to wait for the present owner, in this thread. 0 (default): fail at once. None: no limit.

    Returns:
        The socket, bound, and listening unless it is a datagram socket; and the `Guard` that holds flock(2) on
        ``path + ".lock"``. Keep it: closed or dropped, it gives up the path. The lock file stays; do not remove it.

    Raises:
        AddressInUseError: the path has an owner; ``owner_pid`` is its pid, where the system reports it.
        FileExistsError: the file at `path` is not a socket. It is left alone.
        OSError: from the system: no directory (it is not made), no permission, no locks. ``filename`` is the path.
        TypeError, ValueError, OverflowError: an argument is wrong.

    While any process holds the socket or the lock, every other ``bind_exclusive`` of `path` on this machine fails.
    Once the kernel has released both, even after SIGKILL, the next one succeeds. A call that fails leaves at most the
    lock file. Programs that ignore the lock can still unlink the path.

    Example::

        sock, guard = unixsock.bind_exclusive("/run/app/app.sock", mode=0o660)
        with guard:
            asyncio.run(serve(sock))
    """
    address = checked_path(path)
    type = checked_type(type)
    mode = checked_mode(mode)
    backlog = checked_backlog(backlog)
    timeout = checked_timeout(timeout)
    # One guard for all attempts: Python would drop an interrupt that comes while it collects an empty one.
    guard = Guard(address)
    return _until_free(timeout, address, lambda: _try_to_bind(guard, type, mode, backlog))


def bind_abstract(
    name: str | bytes,
    *,
    type: int = socket.SOCK_STREAM,
    backlog: int | None = None,
    timeout: float | None = 0.0,
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
        OSError: EOPNOTSUPP, this is not Linux; ENAMETOOLONG, `name` is too long. ``filename`` is the name.
        TypeError, ValueError, OverflowError: an argument is wrong.

    An abstract name has no permissions: every user in the network namespace can connect, or take the name first. Check
    the peer's credentials (SO_PEERCRED, unix(7)).

    Example::

        sock, guard = unixsock.bind_abstract("com.example.app")
        with guard:
            sock.accept()
    """
    address = checked_name(name)
    type = checked_type(type)
    backlog = checked_backlog(backlog)
    timeout = checked_timeout(timeout)
    guard = Guard(address)
    return _until_free(timeout, address, lambda: _try_to_bind(guard, type, None, backlog))


def _until_free(timeout: float, address: str, bind: Callable[[], _Bound]) -> _Bound:
    """What `bind` returns as soon as `address` is free. Nothing is held between attempts."""
    deadline = time.monotonic() + timeout
    pause = _FIRST_PAUSE
    while True:
        try:
            return bind()
        except (LockHeld, ServerBound) as verdict:
            left = deadline - time.monotonic()
            if left <= 0:
                raise _in_use(address, verdict) from None
        time.sleep(min(pause, left))
        pause = min(2 * pause, _LONGEST_PAUSE)


def _try_to_bind(guard: Guard, type: int, mode: int | None, backlog: int | None) -> _Bound:
    """One attempt: a new socket, bound, and listening unless it is a datagram socket, and `guard`, which holds it."""
    lock = None if guard.lock_path is None else claim(guard.address, create=True)
    try:
        sock = socket.socket(socket.AF_UNIX, type)
        guard._held = (sock, lock)  # noqa: SLF001 - both in one step, which an interrupt cannot split
        _bind_and_listen(sock, guard.address, type, mode, backlog)
        return sock, guard  # noqa: TRY300 - an interrupt on the way out is undone, too
    except BaseException as error:
        if lock is not None and guard.closed:
            os.closerange(lock, lock + 1)  # one call that ignores errors, as in acquire()
        while not guard.closed:  # again, where a signal handler's error came before its first step
            errno_of(guard.close)  # ignored: the first error says more
        # The path is named here, not by a context manager around each call: an interrupt at the entry of its __exit__
        # loses the descriptor that the call has returned.
        name_path(error, guard.address)
        raise


def _bind_and_listen(sock: socket.socket, address: str, type: int, mode: int | None, backlog: int | None) -> None:
    if mode is not None:
        narrow_mode(sock.fileno(), mode)
    if attempt(sock.bind, address, expected=errno.EADDRINUSE):
        raise ServerBound  # a path: a server without the lock bound it after it was cleared
    if mode is not None:
        set_mode(address, mode)  # before listen: until then a stream socket refuses every client
    if type != socket.SOCK_DGRAM:
        sock.listen() if backlog is None else sock.listen(backlog)


def _in_use(address: str, verdict: LockHeld | ServerBound) -> AddressInUseError:
    pid = None
    lock_path = lock_path_of(address)
    if isinstance(verdict, LockHeld):
        pid = owner_pid(lock_path)
        why = _taken_by(pid, lock_path)
        if errno_of(os.lstat, address) == errno.ENOENT:
            why += "; no socket file is there: if that lasts, it was deleted, and only a restart of its server helps"
    elif address.startswith("\0"):
        why = "the abstract name is taken"
    else:
        # Not ss -l: of a datagram socket that has a client, or was probed, the kernel says ESTAB.
        why = "a socket is still bound there, by a server without the lock or one just ending; see ss -xap"
    words = f"{os.strerror(errno.EADDRINUSE)} ({why})"
    return AddressInUseError(errno.EADDRINUSE, words, address.removeprefix("\0"), owner_pid=pid)


def _taken_by(pid: int | None, lock_path: str) -> str:
    if pid is None:
        return f"taken by another process or guard; see fuser {lock_path!r}, as root and outside containers"
    if pid == os.getpid():
        return f"taken by this process, pid {pid}: close its guard, or end the process that inherited it"
    if errno_of(os.kill, pid, 0) == errno.ESRCH:
        return f"taken by pid {pid}, which has ended; the lock is still held: fuser {lock_path!r} shows by whom"
    return f"taken by pid {pid}"
