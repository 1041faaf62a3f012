"""The lock file: open, flock, and still the same file.

A lock that outlives its holder blocks every restart, and one on a file that has been replaced excludes nobody.
Invariant: who has a descriptor from `acquire` holds flock(2) on the file that stands at the lock path, and the
kernel drops it with the last copy of that descriptor. The file is never written, truncated, re-moded or unlinked.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat

from unixsock._errors import LockHeld, name_path

# O_RDWR: NFS locks need it. O_NOFOLLOW: a planted link must not make us lock, or create, a file elsewhere.
# O_NONBLOCK: a FIFO, or a write lease that another user holds on a lock file of his, must not hang us.
# Close-on-exec is what os.open makes of every descriptor.
_FLAGS = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK

# Each round is one race lost to somebody who removes or replaces the lock file. Nobody honest does it twice.
_ROUNDS = 100


def path_of_lock(path: str | bytes) -> str | bytes:
    """Beside the socket. Appended: with the suffix swapped, a.sock and a.pipe would share one lock."""
    return path + ".lock" if isinstance(path, str) else path + b".lock"


def acquire(lock_path: str | bytes, *, create: bool) -> int:
    """The descriptor that holds the lock; the caller owns it. LockHeld when it is taken, at once.

    Where no file stands at `lock_path`, it is made if `create` is true, else FileNotFoundError.
    """
    try:
        for _ in range(_ROUNDS):
            lock = _open(lock_path, create=create)
            if lock is None:
                continue
            try:
                if _locked_in_place(lock, lock_path):
                    return lock
            except BaseException:
                release(lock)
                raise
            release(lock)
    except OSError as error:
        name_path(error, lock_path)
        raise
    raise OSError(errno.EBUSY, "Lock file keeps being removed or replaced", lock_path)


def release(lock: int) -> None:
    """Close `lock`, which `acquire` returned. Never LOCK_UN: it frees the lock for every process that shares it."""
    try:
        os.close(lock)
    except OSError:
        # close(2): the descriptor is gone all the same. Callers are giving up, for a reason that says more.
        pass


def taken_by(lock_path: str | bytes) -> int | None:
    """Pid of the process that took the lock, from proc(5)'s /proc/locks; None where the system does not tell.

    Not from the lock file: a pid in a file goes stale, and gets reused.
    """
    try:
        file = os.lstat(lock_path)
        where = b" %02x:%02x:%d " % (os.major(file.st_dev), os.minor(file.st_dev), file.st_ino)
        with open("/proc/locks", "rb") as table:
            # "7: FLOCK  ADVISORY  WRITE 4242 fe:00:131 0 EOF"; the second field of a waiter's line is "->". Not line by
            # line: a machine can hold thousands of locks, and the loop would take as long as the kernel does.
            *before, _ = table.read().split(where)
        for text in before:
            fields = text.rpartition(b"\n")[2].split()
            if fields[1] == b"FLOCK":
                return int(fields[4]) or None  # 0: a process outside our pid namespace
    except OSError:
        pass  # no such file to ask: not Linux, or not where we are
    return None


def _open(lock_path: str | bytes, *, create: bool) -> int | None:
    """The lock file's descriptor, not locked yet; the caller owns it. None when the file came or went meanwhile."""
    try:
        try:
            return os.open(lock_path, _FLAGS)
        except FileNotFoundError:
            if not create:
                raise
        # O_CREAT only where there is no file: on one of another user's in a sticky directory it fails with EACCES
        # (proc(5), fs.protected_regular). 0600: nobody else can sit on a lock that we made.
        try:
            return os.open(lock_path, _FLAGS | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            return None
    except BlockingIOError:
        raise LockHeld from None  # open(2): the file has a lease that conflicts


def _locked_in_place(lock: int, lock_path: str | bytes) -> bool:
    """Lock `lock`, which the caller goes on owning. False when it is not the file at `lock_path` any more."""
    file = os.fstat(lock)
    if not stat.S_ISREG(file.st_mode):
        raise OSError(errno.EINVAL, "Lock file is not a regular file")
    try:
        # Not fcntl(2)'s locks: they do not keep two guards of one process apart, and the process loses them when
        # it closes any descriptor of the file.
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise LockHeld from None
    try:
        # Between open and flock the file may have been removed, and a lock on an orphan excludes nobody. libwayland,
        # which unlinks its lock file, had two owners at once more often than not.
        return os.path.samestat(file, os.lstat(lock_path))
    except FileNotFoundError:
        return False
