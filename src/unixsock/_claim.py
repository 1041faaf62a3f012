"""Lock held, then name cleared: how a start begins, and how a close ends.

Clearing without the lock lets two starters unlink each other's socket. Invariant: while the lock that `claim`
returned is held, no other user of this library binds, clears or unlinks the name.
"""

from __future__ import annotations

from unixsock._errors import name_path
from unixsock._lock_file import acquire, release
from unixsock._socket_file import clear_stale


def claim(path: str | bytes, lock_path: str | bytes, *, create: bool) -> int:
    """The descriptor that holds the lock of `path`, where nothing stands any more; the caller owns it.

    LockHeld or ServerBound when the name has an owner.
    """
    try:
        lock = acquire(lock_path, create=create)
    except (FileNotFoundError, NotADirectoryError) as error:
        name_path(error, path)  # it is the directory that is not there, for the one as for the other
        raise
    try:
        clear_stale(path)
    except BaseException:
        release(lock)
        raise
    return lock
