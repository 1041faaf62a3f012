"""What a caller catches, and what our own modules tell each other.

bind(2), listen(2), flock(2) and fstat(2) fail without a path: "[Errno 98] Address already in use" of which of
a program's five sockets? Invariant: every OSError that leaves the package names the path it is about.
"""

from __future__ import annotations


class AddressInUseError(OSError):
    """The address has an owner already.

    Attributes:
        errno: always ``errno.EADDRINUSE``.
        filename: the address as it was given to `bind_exclusive` or `bind_abstract`, ``str`` or ``bytes``.
        owner: pid of the process that took the lock, an ``int`` in this process's pid namespace. None where the
            system does not tell (it is read from proc(5)'s ``/proc/locks``), where a server that does not hold
            the lock is in the way, and for an abstract name. After a fork, the process that took the lock may be
            gone while its children hold on.

    Survives `pickle` and `copy` with its ``owner``.
    """

    __module__ = "unixsock"

    owner: int | None

    # pickle and copy pass OSError's positional arguments and then restore __dict__, where owner is.
    def __init__(self, *args: object, owner: int | None = None) -> None:
        super().__init__(*args)
        self.owner = owner


class Taken(Exception):  # noqa: N818 - a verdict between our own modules, and callers may wait for another
    """Private: somebody has the address. One of the two below."""


class LockHeld(Taken):
    """Somebody else holds the lock."""


class ServerBound(Taken):
    """Nobody else holds the lock, and yet a server is bound at the address."""


def name_path(error: BaseException, path: str | bytes) -> None:
    """Have `error`, if it comes from a system call, name `path` in its ``filename``.

    Not so a TimeoutError("too slow") that a signal handler of the caller's has raised meanwhile: it has no errno.
    """
    if isinstance(error, OSError) and error.errno is not None:
        error.filename = path
