"""What a caller is told whose call failed: who has the address, or what can be seen of the cause, and what to do.

"Permission denied" about a lock file that the caller never named has five causes, and "in use" sends people after the
wrong server. Invariant: the facts are looked at once, after everything is undone and nothing is held; no look raises an
error of its own, and the system's own words stay first.
"""

from __future__ import annotations

import errno
import io
import os
import stat
import sys

from unixsock._arguments import LINUX, is_abstract
from unixsock._errors import AddressInUseError, errno_of, kind_of, name_path
from unixsock._lock_file import LockHeld, lock_path_of
from unixsock._socket_file import ServerBound

# No path in a command: whoever pastes it would run what is in the path. Each message ends with the path.
# Not ss -l: of a datagram socket that has a client, or was probed, the kernel says ESTAB.
_SOCKETS, _HOLDERS = ("ss -xap", "fuser") if sys.platform in LINUX else ("lsof -U", "lsof")

_WITHOUT_LOCK = "its server does not use unixsock, closed or dropped its guard, lost its lock file, or is just exiting"

_SANDBOX = "a sandbox may forbid such sockets"

_DENIED = (errno.EACCES, errno.EPERM)
# What else socket(2) and bind(2) say where there can be no such socket. FAT, exFAT, rclone and sshfs hold none.
_NO_SOCKETS = (errno.EIO, errno.ENXIO, errno.EOPNOTSUPP, errno.ENOSYS, errno.EAFNOSUPPORT, errno.EPROTONOSUPPORT)


def in_use(address: str, verdict: LockHeld | ServerBound) -> AddressInUseError:
    """The error for a caller who does not wait any longer."""
    pid = _owner_pid(lock_path_of(address)) if isinstance(verdict, LockHeld) else None
    if is_abstract(address):
        why = f"the abstract name is taken; see {_SOCKETS}"
    elif isinstance(verdict, ServerBound):
        why = f"a socket is bound there, but nobody holds the lock: {_WITHOUT_LOCK}; see {_SOCKETS}"
    else:
        why = _taken_by(pid)
        if errno_of(os.lstat, address) == errno.ENOENT:
            why += "; no socket file is there: it was removed, or the holder is starting, closing, or not a server"
    words = f"{os.strerror(errno.EADDRINUSE)} ({why})"
    return AddressInUseError(errno.EADDRINUSE, words, address.removeprefix("\0"), owner_pid=pid)


def explain(error: OSError, address: str) -> None:
    """Add to the system's words, in parentheses, what can be seen of the cause. Words of our own stay as they are."""
    # What a signal handler raises with an errno is taken for the system's, and may name anything.
    name_path(error, error.filename if error.filename in (address, lock_path_of(address)) else address)
    if error.errno is not None and error.strerror == os.strerror(error.errno):
        errno_of(_explain, error, address)  # ignored: what cannot be looked at is not told


def _taken_by(pid: int | None) -> str:
    if pid is None:
        return f"taken by another process or guard; see {_HOLDERS} on the lock file"
    if pid == os.getpid():
        return f"taken by this process, pid {pid}, or by one that inherited its lock"
    if errno_of(os.kill, pid, 0) == errno.ESRCH:
        return f"taken by pid {pid}, which has exited; {_HOLDERS} on the lock file lists who holds it"
    return f"taken by pid {pid}"


def _owner_pid(lock_path: str) -> int | None:
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
            for text in table.read().split(where)[:-1]:
                fields = text.rpartition(b"\n")[2].split()
                if fields[1] == b"FLOCK":
                    return int(fields[4]) or None  # 0: a process outside our pid namespace
    except OSError as error:
        if error.errno is None:
            raise
    return None


def _explain(error: OSError, address: str) -> None:
    facts = _facts(error, address)
    if facts:
        error.strerror = f"{error.strerror} ({facts})"
        error.args = (error.errno, error.strerror)  # pickle, copy and repr() go by these


def _facts(error: OSError, address: str) -> str:
    """What stat(2) shows that can explain `error`; empty if that is nothing."""
    code, file = error.errno, error.filename
    if is_abstract(address):
        return _SANDBOX if code in _DENIED + _NO_SOCKETS else ""
    of_lock = file == lock_path_of(address)
    found = None if errno_of(os.lstat, file) else os.lstat(file)
    if of_lock and found and not stat.S_ISREG(found.st_mode):
        return f"the lock file is {kind_of(found.st_mode)}, not a regular file; move it or use another path"
    if code in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
        error.filename = address  # without the directory there is neither file: name the one that was asked for
    facts = [_blocked(file)]
    if code in _DENIED and not facts[0]:
        what = "the lock file" if of_lock else "the socket file"
        facts.append(_owned(what, found) if found else f"this process runs as uid {os.geteuid()}")
        facts.append(_owned("the directory", os.stat(os.path.dirname(file))))
        if of_lock and found and found.st_uid != os.geteuid():
            facts.append("that user's server may be running")
    is_socket = found is not None and stat.S_ISSOCK(found.st_mode)
    if not of_lock and (code in _NO_SOCKETS or (code in _DENIED and not is_socket)):
        facts.append(_SANDBOX if is_socket else f"the filesystem may hold no sockets, or {_SANDBOX}")
    return "; ".join(filter(None, facts))


def _blocked(file: str) -> str:
    """Which directory on the way to `file` is missing or cannot be searched; empty if none is."""
    for directory in [file[:end] for end, character in enumerate(file) if character == "/"]:
        code = errno_of(os.lstat, f"{directory}/.")
        if code in (errno.ENOENT, errno.EACCES) and not errno_of(os.readlink, directory):
            target = os.path.join(os.path.dirname(directory), os.readlink(directory), "")
            return _blocked(target)  # the link itself is there
        if code == errno.ENOENT:
            return f"{directory!r} is missing"
        if code == errno.EACCES:
            return _owned(f"{directory!r} cannot be searched: it", os.lstat(directory))
    return ""


def _owned(what: str, file: os.stat_result) -> str:
    sticky = " (sticky)" if file.st_mode & stat.S_ISVTX else ""
    return f"{what} belongs to uid {file.st_uid} and has the bits {stat.S_IMODE(file.st_mode):#o}{sticky}"
