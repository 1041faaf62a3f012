"""The guard: who owns the socket and the lock, and how both are let go.

Unlinking at close by the path alone deletes the next owner's socket file. Invariant: a guard closes each of its
descriptors once, and it clears its path only as a start does, under a lock that is taken anew.
"""

from __future__ import annotations

import os
import socket
import warnings
from collections.abc import Callable

from unixsock._errors import errno_of, name_path
from unixsock._lock_file import LockHeld, acquire, lock_path_of
from unixsock._socket_file import ServerBound, clear_stale


def claim(path: str, *, create: bool) -> int:
    """Take the lock of `path`, then remove a stale socket file there. Return the lock's descriptor, the caller's.

    This is how a start begins and how a close ends. While the lock is held, no other user of this library binds or
    unlinks `path`. LockHeld or ServerBound when the path has an owner.
    """
    lock = acquire(path, create=create)
    try:
        clear_stale(path)
    except BaseException:
        os.closerange(lock, lock + 1)  # one call that ignores errors, as in acquire()
        raise
    return lock


class Guard:
    r"""Holds an address: the socket and its lock, until `close`.

    Only `bind_exclusive` and `bind_abstract` make guards. Use it as the outermost context manager, so that it closes
    after the server that uses the socket has stopped::

        sock, guard = bind_exclusive("/run/app/app.sock")
        with guard:
            serve(sock)

    Attributes (all read-only):
        address: what a client passes to ``connect()``, from any working directory, ``str``: the absolute path, or
            ``"\0name"`` for an abstract name.
        lock_path: the lock file, ``str``; None for an abstract name.
        closed: whether `close` has been called, ``bool``.

    Path and lock stay as long as any process holds them (flock(2): a lock belongs to the open file description, which
    forked children share). So a forked child that does not serve should call `close` at once; this changes
    nothing for the parent.

    A guard can be neither pickled nor copied (TypeError). One that is dropped without `close` releases its lock and
    gives a ResourceWarning; its socket, if still open, keeps the path.
    """

    __module__ = "unixsock"

    # The socket and the lock's descriptor, None for an abstract name. Present from just before bind(2) to the close.
    _held: tuple[socket.socket, int | None]

    def __init__(self, address: str) -> None:
        self._address = address

    @property
    def address(self) -> str:
        r"""What a client passes to ``connect()``: the absolute path, or ``"\0name"`` for an abstract name."""
        return self._address

    @property
    def lock_path(self) -> str | None:
        """The lock file's absolute path; None for an abstract name."""
        return None if self._address.startswith("\0") else lock_path_of(self._address)

    @property
    def closed(self) -> bool:
        """Whether the guard holds nothing: it is closed, or its bind has not begun."""
        return not hasattr(self, "_held")

    def __enter__(self) -> Guard:
        """Return the guard itself. ValueError when it is closed."""
        self._lock()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def fileno(self) -> int:
        """The lock's descriptor, for ``pass_fds`` or SCM_RIGHTS: every process with a copy of it holds the lock.

        The guard still owns it. ValueError when the guard is closed, or its address is abstract.
        """
        lock = self._lock()
        if lock is None:
            raise ValueError(f"an abstract name has no lock: {self!r}")
        return lock

    def close(self) -> None:
        """Close the socket, then the lock, then remove the socket file if no socket is bound there any more.

        Idempotent and thread-safe. Before calling it, wake threads blocked in ``accept()`` and join them. The socket
        file stays where the socket or the lock is still held (by another process, a duplicate, a thread in
        ``accept()``) or another server is bound by now. A stale one that may not be removed stays too; the next
        `bind_exclusive` removes it.

        Raises:
            OSError: EBADF, the descriptor of the socket or the lock was closed by other code. All other steps
                have been done. ``filename`` is the path, the abstract name or the lock file.
        """
        try:
            # del is the one atomic step. Two threads that both got past it would close the same number twice, and by
            # then it may be another file's. Not vars(self).pop(): an interrupt between its return and the assignment
            # would lose the lock, still held.
            sock, lock = self._held
            del self._held
        except AttributeError:
            return
        try:
            # First: with the lock free and the socket bound, a start is refused, and cannot tell by whom.
            sock.close()
        except BaseException as error:
            errno_of(sock.close)  # again: an interrupt at its entry may have left it open
            name_path(error, self._address)
            raise
        finally:
            # All in this one function: at the entry of another, an interrupt could keep the lock from being closed.
            if lock is not None:
                try:
                    # Never LOCK_UN: it would free the lock for every process that shares the open file description.
                    os.close(lock)
                except OSError as error:
                    name_path(error, lock_path_of(self._address))
                    raise
                finally:
                    # What we may not remove, the next start removes.
                    errno_of(self._clear)

    def __repr__(self) -> str:
        return f"<unixsock.Guard {self._address!r}{' closed' if self.closed else ''}>"

    def __reduce__(self) -> tuple[object, ...]:
        # For copy as for pickle. A copy would close a descriptor number that it does not own.
        raise TypeError("a Guard can be neither pickled nor copied: it owns a descriptor of this process")

    # The default arguments outlive this module's globals, which may be gone when the interpreter exits.
    def __del__(self, _close: Callable[..., None] = os.close, _warn: Callable[..., None] = warnings.warn) -> None:
        if hasattr(self, "_held"):
            _, lock = self._held
            del self._held
            try:
                if lock is not None:
                    _close(lock)
            finally:  # not before: the warning may be an error
                _warn(f"unclosed <unixsock.Guard {self._address!r}>", ResourceWarning, source=self)

    def _lock(self) -> int | None:
        try:
            _, lock = self._held
        except AttributeError:
            raise ValueError(f"guard is closed: {self!r}") from None
        return lock

    def _clear(self) -> None:
        # Under a lock taken anew, not under the one held so far. Two forked closers share that one, and the slower
        # would unlink what another server has bound since. After the lock file was replaced, or the descriptor was
        # closed behind our back, the old lock excludes nobody.
        try:
            os.close(claim(self._address, create=False))
        except (LockHeld, ServerBound):
            pass  # the holder of the lock serves or clears the path itself; a server that is bound keeps it
