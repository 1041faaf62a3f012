"""The guard: who owns the socket and the lock, and how they are let go.

Unlinking at close by the path alone deletes the next owner's socket. Invariant: a guard closes its descriptors
once, and clears its name only as a start would, under a lock taken anew.
"""

from __future__ import annotations

import os
from _warnings import warn  # the built-in warnings.warn, without a module that would cost a quarter of our import

from unixsock._errors import Taken, name_path
from unixsock._socket_file import claim

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from collections.abc import Callable
    from typing import NoReturn


class Guard:
    r"""Owns an address: keeps its lock for the lifetime of the socket, and gives it up at `close`.

    Made by `bind_exclusive` and `bind_abstract` only. Best used as the outermost context manager, so that it
    closes after the server that uses the socket has stopped::

        sock, guard = bind_exclusive("/run/app/app.sock")
        with guard:
            serve(sock)

    Attributes (all read-only):
        address: what a client passes to ``connect()``, from any working directory: the absolute path as ``str`` or
            ``bytes``, whichever was given, or ``b"\0name"`` for an abstract name.
        lock_path: the lock file, of the same type; None for an abstract name.
        closed: whether `close` has been called, ``bool``.

    Name and lock stay as long as any process holds them (flock(2): a lock belongs to the open file description,
    which forked children share). So a child of fork(2) that does not serve should call
    `close` first thing; it changes nothing for the parent.

    A guard can be neither pickled nor copied (TypeError). One that is collected without `close` gives a
    ResourceWarning, and keeps the lock until the process ends: its socket may still be listening elsewhere.
    """

    __module__ = "unixsock"
    __slots__ = ("__weakref__", "_address", "_held", "_lock_path")

    _address: str | bytes
    _lock_path: str | bytes | None
    _held: list[tuple[socket.socket, int | None]]  # empty once closed

    def __init__(
        self, address: str | bytes, lock_path: str | bytes | None, sock: socket.socket, lock: int | None
    ) -> None:
        """Take over `sock` and the descriptor `lock`; `lock` and `lock_path` are None for an abstract name."""
        self._address = address
        self._lock_path = lock_path
        self._held = [(sock, lock)]

    @property
    def address(self) -> str | bytes:
        """What a client passes to ``connect()``."""
        return self._address

    @property
    def lock_path(self) -> str | bytes | None:
        """The lock file's absolute path; None for an abstract name."""
        return self._lock_path

    @property
    def closed(self) -> bool:
        """Whether `close` has been called."""
        return not self._held

    def __enter__(self) -> Guard:
        """Return the guard itself. ValueError when it is closed."""
        self._open_pair()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def fileno(self) -> int:
        """The lock's descriptor, for ``pass_fds`` or SCM_RIGHTS: who holds a copy of it holds the lock.

        The guard goes on owning it. ValueError when the guard is closed, or its name is abstract.
        """
        lock = self._open_pair()[1]
        if lock is None:
            raise ValueError(f"an abstract name has no lock: {self!r}")
        return lock

    def close(self) -> None:
        """Close the socket, then the lock, then remove the name if nobody is bound there any more.

        Idempotent, and safe to call from several threads. Where another process holds the socket or the lock,
        or another server has the name by now, the name stays with them. It stays, dead, where it may not be
        removed; the next `bind_exclusive` clears it. An interrupt in the middle can leave the dead name behind, too,
        and in the worst case the lock held until the process ends.

        Raises:
            OSError: the socket or the lock could not be closed: EBADF, somebody has closed its descriptor behind
                the guard's back. All the other steps have been done. ``filename`` is the address or the lock file.
        """
        try:
            # The one atomic step: of two threads inside, one would close a number that is another file's by now.
            sock, lock = self._held.pop()
        except IndexError:
            return
        try:
            sock.close()
        except OSError as error:
            name_path(error, self._address)
            raise
        finally:
            # All in this one function: at the entry of another, an interrupt could keep the lock from being closed.
            if lock is not None and self._lock_path is not None:
                try:
                    # Never LOCK_UN: it would free the lock for every process that shares the open file description.
                    os.close(lock)
                except OSError as error:
                    name_path(error, self._lock_path)
                    raise
                finally:
                    self._clear_name(self._lock_path)

    def __repr__(self) -> str:
        return f"<unixsock.Guard {self._address!r}{' closed' if self.closed else ''}>"

    def __reduce__(self) -> NoReturn:
        # For copy as for pickle. A copy would close a descriptor number that is not its own.
        raise TypeError("a Guard can be neither pickled nor copied: it owns a descriptor of this process")

    # The default argument outlives this module's globals, which may be gone when the interpreter ends.
    def __del__(self, _warn: Callable[..., None] = warn) -> None:
        if getattr(self, "_held", None):  # __init__ may not have got that far
            _warn(f"unclosed {self!r}", ResourceWarning, source=self)

    def _open_pair(self) -> tuple[socket.socket, int | None]:
        try:
            return self._held[0]
        except IndexError:
            raise ValueError(f"guard is closed: {self!r}") from None

    def _clear_name(self, lock_path: str | bytes) -> None:
        # Under a lock taken anew, not under the one held so far. Two forked closers share that one, and the slower
        # would unlink what a stranger has bound since; after the lock file was replaced, or the descriptor closed
        # behind our back, it excludes nobody.
        try:
            os.close(claim(self._address, lock_path, create=False))
        except (Taken, OSError):
            # Whoever holds the lock clears the name himself, or still serves; a server that is bound there keeps
            # it; what we may not remove, the next start clears.
            pass
