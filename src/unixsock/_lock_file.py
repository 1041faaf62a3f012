"""The lock file: open it, flock it, and check that it is still the same file.

A lock that outlives its holder blocks every restart, and a lock on a file that has been replaced excludes nobody.
Invariant: the file object that `acquire` returns holds flock(2) on the file that stood at the lock path then. It closes
its descriptor when it is dropped, so that no interrupt can lose the lock, and the kernel drops the lock with the last
copy of the descriptor. The file is never written, truncated, re-moded or unlinked.
"""

from __future__ import annotations

import errno
import fcntl
import io
import os
import stat

from unixsock._errors import errno_of, name_path

# O_RDWR: NFS locks need it. O_NOFOLLOW: a planted link must not make us lock, or create, a file elsewhere.
# O_NONBLOCK: a FIFO, or another user's write lease on a lock file that is theirs, must not make us hang.
# Python makes every descriptor close-on-exec.
_FLAGS = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK

# Each round is a race lost to a process that removes or replaces the lock file.
_ROUNDS = 100


class LockHeld(Exception):  # noqa: N818 - a verdict between our modules; the caller may wait and try again
    """Another open file description holds the lock: of another process, or of another guard of this one."""


def lock_path_of(path: str) -> str:
    """Beside the socket file. Appended: with the suffix replaced, a.sock and a.pipe would share one lock."""
    return path + ".lock"


def acquire(path: str, *, create: bool) -> io.FileIO:
    """Take the lock of `path` without waiting; it is held until the file is closed. LockHeld when it is taken.

    A missing lock file is created if `create` is true, else FileNotFoundError.
    """
    lock_path = lock_path_of(path)
    for _ in range(_ROUNDS):
        lock = _open(lock_path, create=create)
        if lock is None:
            continue
        try:
            if _lock_current_file(lock, lock_path):
                return lock
        except BaseException as error:
            # Dropping the file is not enough: whoever keeps the error also keeps this frame, and so the file.
            errno_of(lock.close)  # ignored: the first error says more
            name_path(error, lock_path)
            raise
        errno_of(lock.close)  # ignored: this lock file has been replaced, and a lock on it excludes nobody
    raise OSError(errno.EBUSY, "Lock file keeps being removed; find and stop the program that does this", lock_path)


def _open(lock_path: str, *, create: bool) -> io.FileIO | None:
    """The lock file, not locked yet. None if another process made it meanwhile."""
    try:
        return io.FileIO(os.open(lock_path, _FLAGS), "r+")
    except OSError as error:
        if error.errno == errno.EWOULDBLOCK:
            raise LockHeld from None  # open(2): the file has a lease that conflicts
        if error.errno != errno.ENOENT or not create:
            raise
    try:
        # O_CREAT only where there is no file: on another user's file in a sticky directory it fails with EACCES
        # (proc(5), fs.protected_regular). 0600: no other user can sit on a lock that we made.
        return io.FileIO(os.open(lock_path, _FLAGS | os.O_CREAT | os.O_EXCL, 0o600), "r+")
    except OSError as error:
        if error.errno != errno.EEXIST:
            raise
    return None


def _lock_current_file(lock: io.FileIO, lock_path: str) -> bool:
    """Lock `lock`. False when it is not the file at `lock_path` any more."""
    # For a ResourceWarning. An opener would set it, too, but then FileIO makes one more system call.
    lock.name = lock_path
    file = os.fstat(lock.fileno())
    if not stat.S_ISREG(file.st_mode):
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
    # Not the locks of fcntl(2): they do not exclude two guards of one process, and a process loses them when it closes
    # any descriptor of the file.
    answer = errno_of(fcntl.flock, lock.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
    if answer == errno.EWOULDBLOCK:
        raise LockHeld
    if answer:
        raise OSError(answer, os.strerror(answer))
    try:
        # Between open and flock the file may have been removed, and a lock on an orphan excludes nobody. libwayland
        # unlinks its lock file, and had two owners at once in most acquisitions.
        return os.path.samestat(file, os.lstat(lock_path))
    except OSError as error:
        if error.errno == errno.ENOENT:
            return False
        raise
