"""bind_exclusive and bind_abstract: check, claim, socket, guard, bind, mode, listen.

A guard made after bind(2) loses the socket file to an interrupt that arrives in between. Invariant: what is bound has
its guard already, so that from there on undoing anything is closing the guard.
"""

from __future__ import annotations

import errno
import os
import socket
import time

from unixsock._arguments import checked_backlog, checked_mode, checked_name, checked_path, checked_timeout, checked_type
from unixsock._errors import AddressInUseError, name_path
from unixsock._guard import Guard, claim
from unixsock._lock_file import LockHeld, close_quietly, lock_path_of, owner_pid
from unixsock._socket_file import ServerBound, narrow_mode, set_mode

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

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

    Args:
        path: of the socket file; at most 107 bytes in absolute form (unix(7); 103 on macOS and the BSDs).
        type: ``SOCK_STREAM`` (default), ``SOCK_SEQPACKET`` or ``SOCK_DGRAM``.
        mode: permission bits of the socket file, exactly, whatever the umask; they must include 0o200. None
            (default): 0o777 less the umask. A stream socket never has other bits while clients can connect.
        backlog: as for `socket.listen`; None (default): its default.
        timeout: seconds to wait for the present owner. 0 (default): fail at once. None: no limit. Waiting blocks the
            calling thread.

    Returns:
        The socket, bound, and listening unless it is a datagram socket; and the `Guard` that holds flock(2) on
        ``path + ".lock"``. That file stays for good: do not remove it. Close the guard to give up the path.

    Raises:
        AddressInUseError: the path has an owner; ``owner_pid`` is its pid, where the system reports it.
        FileExistsError: the file at `path` is not a socket. It is left alone.
        OSError: from the system, such as no directory, no permission, no locks. ``filename`` is the path it is about.
        TypeError, ValueError: an argument is wrong.

    While any process holds the socket and the lock, every other ``bind_exclusive`` of `path` on this machine fails.
    Once the kernel has released both, even after SIGKILL, the next one succeeds. A call that raises leaves at most the
    lock file. Programs that ignore the lock can still unlink the path.

    Example::

        sock, guard = unixsock.bind_exclusive("/run/app/app.sock", mode=0o660)
        with guard:
            asyncio.run(serve(sock))
    """
    address = checked_path(path)
    lock_path = lock_path_of(address)
    type = checked_type(type)
    mode = checked_mode(mode)
    backlog = checked_backlog(backlog)
    timeout = checked_timeout(timeout)

    try:
        return _until_free(timeout, lambda: _try_to_bind(address, lock_path, type, mode, backlog))
    except LockHeld:
        pid = owner_pid(lock_path)
        taker = "another process or guard" if pid is None else f"pid {pid}"
        raise _in_use(address, f"taken by {taker}", pid) from None
    except ServerBound:
        why = f"a socket is still bound there, by a server that does not hold {lock_path} or by one that is just ending"
        raise _in_use(address, why) from None


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
        TypeError, ValueError: an argument is wrong.

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

    try:
        return _until_free(timeout, lambda: _try_to_bind(address, None, type, None, backlog))
    except ServerBound:
        raise _in_use(address, "abstract name") from None


def _until_free(timeout: float, attempt: Callable[[], tuple[socket.socket, Guard]]) -> tuple[socket.socket, Guard]:
    """What `attempt` returns as soon as the address is free. Nothing is held between attempts."""
    deadline = time.monotonic() + timeout
    pause = _FIRST_PAUSE
    while True:
        try:
            return attempt()
        except (LockHeld, ServerBound):
            left = deadline - time.monotonic()
            if left <= 0:
                raise
        time.sleep(min(pause, left))
        pause = min(2 * pause, _LONGEST_PAUSE)


def _try_to_bind(
    address: str, lock_path: str | None, type: int, mode: int | None, backlog: int | None
) -> tuple[socket.socket, Guard]:
    """One attempt: a new socket, bound and listening, and its guard. `lock_path` is None for an abstract name."""
    guard = Guard(address, lock_path)
    sock = None
    lock = None if lock_path is None else claim(address, create=True)
    try:
        sock = socket.socket(socket.AF_UNIX, type)
        guard._take_over(sock, lock)  # noqa: SLF001 - the one other module that knows how a guard is made
        _bind_and_listen(sock, address, type, mode, backlog)
        return sock, guard  # noqa: TRY300 - an interrupt on the way out is undone, too
    except BaseException as error:
        # Named here, not by a context manager around each call: an interrupt at the entry of its __exit__ loses the
        # descriptor that the call has returned.
        name_path(error, address)
        if not guard.closed:
            try:
                guard.close()
            except OSError as failure:
                # Its descriptors are released all the same, and the first error says more.
                if failure.errno is None:
                    raise
        else:
            if lock is not None:
                close_quietly(lock)
            if sock is not None:
                sock.close()
        raise


def _bind_and_listen(sock: socket.socket, address: str, type: int, mode: int | None, backlog: int | None) -> None:
    if mode is not None:
        narrow_mode(sock, mode)
    try:
        sock.bind(address)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise ServerBound from None  # a path: a server without the lock bound it after it was cleared
        raise
    if mode is not None:
        set_mode(address, mode)  # before listen: until then a stream socket refuses every client
    if type != socket.SOCK_DGRAM:
        if backlog is None:
            sock.listen()
        else:
            sock.listen(backlog)


def _in_use(address: str, why: str, pid: int | None = None) -> AddressInUseError:
    words = f"{os.strerror(errno.EADDRINUSE)} ({why})"
    return AddressInUseError(errno.EADDRINUSE, words, address.removeprefix("\0"), owner_pid=pid)
