"""The guard: who owns the socket and the lock, and how both are let go.

Unlinking at close by the path alone deletes the next owner's socket file. Invariant: a guard lets go of socket and lock
once, and it clears its path only as a server that starts does, under a lock that is taken anew.
"""

from __future__ import annotations

import io
import socket

from unixsock._arguments import is_abstract
from unixsock._errors import errno_of, name_path
from unixsock._lock_file import LockHeld, acquire, lock_path_of
from unixsock._socket_file import ServerBound, clear_stale


class Guard:
    r"""Holds an address: the socket and its lock, until `close`.

    Only `bind_exclusive` and `bind_abstract` make guards. Use it as the outermost context manager, so that it closes
    after the server that uses the socket has stopped::

        sock, guard = bind_exclusive("/run/app/app.sock")
        with guard:
            serve(sock)

    The path stays taken as long as any process holds the socket or the lock. Forked children hold both, because a
    flock(2) lock belongs to the open file description, which they share. So a forked child that does not serve should
    call `close` at once; this changes nothing for the parent.

    A guard can be neither pickled nor copied (TypeError). If it is dropped without `close`, Python closes the lock file
    and gives a ResourceWarning that names it; the socket, if it is still open, keeps the path. A guard of an abstract
    name has no lock file, so dropping it gives no warning of its own.
    """

    __module__ = "unixsock"

    def __init__(self, address: str, sock: socket.socket, lock: io.FileIO | None) -> None:
        self._address = address
        self._held = (sock, lock)  # until the close; both close themselves, too, when they are dropped

    @property
    def address(self) -> str:
        r"""What a client passes to ``connect()``: the absolute path, or ``"\0name"`` for an abstract name."""
        return self._address

    @property
    def lock_path(self) -> str | None:
        """The lock file's absolute path; None for an abstract name."""
        return None if is_abstract(self._address) else lock_path_of(self._address)

    @property
    def closed(self) -> bool:
        """Whether `close` has been called."""
        return not hasattr(self, "_held")

    def __enter__(self) -> Guard:
        """Return the guard itself. ValueError when it is closed."""
        if self.closed:
            raise ValueError(f"guard is closed: {self!r}")
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def fileno(self) -> int:
        """The lock's descriptor, for ``pass_fds`` or SCM_RIGHTS: every process with a copy of it holds the lock.

        The guard still owns it. ValueError when the guard is closed, or its address is abstract.
        """
        try:
            _, lock = self._held
        except AttributeError:
            raise ValueError(f"guard is closed: {self!r}") from None
        if lock is None:
            raise ValueError(f"an abstract name has no lock: {self!r}")
        return lock.fileno()

    def close(self) -> None:
        """Close the socket, then the lock, then remove the socket file if no socket is bound there any more.

        Idempotent and thread-safe. Before calling it, wake threads that are blocked in ``accept()``, and join them. The
        socket file stays if the socket or the lock is still held (by another process, a duplicate, a thread in
        ``accept()``), or if another server is bound there by now. A stale socket file that may not be removed stays,
        too; the next `bind_exclusive` removes it.

        Raises:
            OSError: EBADF, because other code has closed the descriptor of the socket or the lock. All other steps have
                been done. ``filename`` is the path, the abstract name or the lock file.
        """
        try:
            # del is the one atomic step: of two threads, or of a close and a signal handler inside it, only one gets
            # past it.
            sock, lock = self._held
            del self._held
        except AttributeError:
            return
        try:
            # First: if the lock were free and the socket still bound, a refusal could not tell by whom.
            sock.close()
        except BaseException as error:
            errno_of(sock.close)  # again: an interrupt at its entry may have left it open
            name_path(error, self._address)
            raise
        finally:
            if lock is not None:
                try:
                    # Never LOCK_UN: it would free the lock for every process that shares the open file description.
                    lock.close()
                except OSError as error:
                    name_path(error, lock_path_of(self._address))
                    raise
                finally:
                    # Ignored: what we may not remove, the next server to start removes.
                    errno_of(self._clear)

    def __repr__(self) -> str:
        return f"<unixsock.Guard {self._address!r}{' closed' if self.closed else ''}>"

    def __reduce__(self) -> tuple[object, ...]:
        # For copy as for pickle. A copy would close a descriptor number that it does not own.
        raise TypeError("a Guard can be neither pickled nor copied: it owns a descriptor of this process")

    def _clear(self) -> None:
        # Under a lock taken anew, not under the one held so far. Two forked closers share that one, and the slower
        # would unlink what another server has bound since. After the lock file was replaced, or the descriptor was
        # closed behind our back, the old lock excludes nobody.
        try:
            with acquire(self._address, create=False):
                clear_stale(self._address)
        except (LockHeld, ServerBound):
            pass  # the holder of the lock serves or clears the path itself; a server that is bound keeps it
