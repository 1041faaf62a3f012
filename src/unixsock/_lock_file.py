"""The lock file: open it, flock it, and check that it is still the same file.

A lock that outlives its holder blocks every restart, and a lock on a file that has been replaced excludes nobody.
Invariant: the descriptor that `acquire` returns holds flock(2) on the file that stood at the lock path then. The kernel
drops the lock with the last copy of that descriptor. The file is never written, truncated, re-moded or unlinked.
"""

from __future__ import annotations

import errno
import fcntl
import io
import os
import stat

from unixsock._errors import attempt, kind_of, name_path

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


def acquire(path: str, *, create: bool) -> int:
    """Take the lock of `path` without waiting. Return its descriptor, which the caller owns. LockHeld when it is taken.

    A missing lock file is created if `create` is true, else FileNotFoundError.
    """
    lock_path = lock_path_of(path)
    try:
        for _ in range(_ROUNDS):
            lock = _open(lock_path, create=create)
            if lock is None:
                continue
            try:
                if _lock_current_file(lock, lock_path):
                    return lock
            except BaseException:
                # One C call that ignores errors: an interrupt at a Python function's entry would leak the lock.
                os.closerange(lock, lock + 1)
                raise
            os.closerange(lock, lock + 1)
    except OSError as error:
        _explain(error, path, lock_path)
        raise
    raise OSError(errno.EBUSY, "Lock file keeps being removed or replaced; stop what does so", lock_path)


def owner_pid(lock_path: str) -> int | None:
    """Pid of the process that took the lock, from proc(5)'s /proc/locks; None where it is not reported there.

    Not from the lock file: a pid in a file becomes stale, and pids are reused.
    """
    try:
        if os.readlink("/proc/self") != str(os.getpid()):
            return None  # /proc of another pid namespace: its numbers mean other processes here
        file = os.lstat(lock_path)
        where = b" %02x:%02x:%d " % (os.major(file.st_dev), os.minor(file.st_dev), file.st_ino)
        with io.FileIO("/proc/locks") as table:
            # "7: FLOCK  ADVISORY  WRITE 4242 fe:00:131 0 EOF"; the second field of a waiter's line is "->". Not line by
            # line: a machine can hold thousands of locks, and the loop would take as long as the kernel does.
            # Unbuffered: on free-threaded 3.13 a buffered open yields so often that refused starts starve.
            *before, _ = table.read().split(where)
        for text in before:
            fields = text.rpartition(b"\n")[2].split()
            if fields[1] == b"FLOCK":
                return int(fields[4]) or None  # 0: a process outside our pid namespace
    except OSError as error:
        if error.errno is None:
            raise
    return None


def _open(lock_path: str, *, create: bool) -> int | None:
    """The lock file's descriptor, not locked yet; the caller owns it. None when the file came meanwhile."""
    try:
        return os.open(lock_path, _FLAGS)
    except OSError as error:
        if error.errno == errno.EWOULDBLOCK:
            raise LockHeld from None  # open(2): the file has a lease that conflicts
        if error.errno != errno.ENOENT or not create:
            raise
    try:
        # O_CREAT only where there is no file: on another user's file in a sticky directory it fails with EACCES
        # (proc(5), fs.protected_regular). 0600: no other user can sit on a lock that we made.
        return os.open(lock_path, _FLAGS | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as error:
        if error.errno != errno.EEXIST:
            raise
    return None


def _explain(error: OSError, path: str, lock_path: str) -> None:
    """Make `error` name the file that it is about, and say what stands at `lock_path` instead of a lock file."""
    # Without the directory there is neither file: name the one that the caller asked for.
    about = path if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP) else lock_path
    try:
        mode = os.lstat(lock_path).st_mode
        if error.errno is not None and not stat.S_ISREG(mode):
            about = lock_path
            error.strerror = f"Lock file is {kind_of(mode)}, not a regular file; move it or use another path"
    except OSError as failure:
        if failure.errno is None:
            raise
    name_path(error, about)


def _lock_current_file(lock: int, lock_path: str) -> bool:
    """Lock `lock`, which stays the caller's. False when it is not the file at `lock_path` any more."""
    file = os.fstat(lock)
    if not stat.S_ISREG(file.st_mode):
        raise OSError(errno.EINVAL, "Lock file is not a regular file")
    # Not the locks of fcntl(2): they do not exclude two guards of one process, and a process loses them when it closes
    # any descriptor of the file.
    if attempt(fcntl.flock, lock, fcntl.LOCK_EX | fcntl.LOCK_NB, expected=errno.EWOULDBLOCK):
        raise LockHeld
    try:
        # Between open and flock the file may have been removed, and a lock on an orphan excludes nobody. libwayland
        # unlinks its lock file, and had two owners at once in most acquisitions.
        return os.path.samestat(file, os.lstat(lock_path))
    except OSError as error:
        if error.errno == errno.ENOENT:
            return False
        raise
