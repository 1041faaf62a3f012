"""What a caller catches, and how an error names its path.

bind(2), listen(2), flock(2) and fstat(2) fail without a path: "[Errno 98] Address already in use" does not say which of
a program's five sockets is meant. Invariant: every OSError that the package raises names the path it is about. An
OSError without an errno does not come from a system call: a signal handler of the application has raised it, and it
goes on to the caller unchanged, even where the package ignores errors.
"""

from __future__ import annotations

import stat
from collections.abc import Callable

_KINDS = {
    stat.S_IFREG: "a regular file",
    stat.S_IFDIR: "a directory",
    stat.S_IFLNK: "a symbolic link",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
}


class AddressInUseError(OSError):
    """The address is taken.

    Attributes:
        errno: always ``errno.EADDRINUSE``.
        filename: the absolute path, or the abstract name without its NUL, ``str``.
        owner_pid: the pid of the process that took the lock, in this process's pid namespace, ``int``. None if the
            operating system does not report it (it is read from proc(5)'s ``/proc/locks``), if a socket is bound there
            although nobody holds the lock, and for an abstract name. That process may have exited, or closed its guard,
            while its children still hold the lock.

    It survives `pickle` and `copy` with its ``owner_pid``.
    """

    __module__ = "unixsock"

    # pickle and copy pass OSError's positional arguments, then restore __dict__, which has owner_pid.
    def __init__(self, *args: object, owner_pid: int | None = None) -> None:
        super().__init__(*args)
        self.owner_pid = owner_pid


def name_path(error: BaseException, address: str) -> None:
    """Make `error`, if it comes from a system call, name `address` in its ``filename``, without a leading NUL."""
    if isinstance(error, OSError) and error.errno is not None:
        error.filename = address.removeprefix("\0")


def errno_of(call: Callable[..., object], *arguments: object, **options: object) -> int:
    """The errno with which `call` fails, 0 when it succeeds. An OSError without one goes on to the caller."""
    try:
        call(*arguments, **options)
    except OSError as error:
        if error.errno is None:
            raise
        return error.errno
    return 0


def kind_of(mode: int) -> str:
    """What kind of file has this ``st_mode``, in words."""
    return _KINDS.get(stat.S_IFMT(mode), "a device")
