"""The arguments: checked before anything is created, and a path is made absolute.

A relative path that is resolved again at each step means another file after chdir(2): servers leave their socket file
behind, or delete another program's. Invariant: one absolute ``str`` serves every step and fits ``sun_path``.
No file is touched here.
"""

from __future__ import annotations

import errno
import operator
import os
import socket
import sys

from unixsock._errors import name_path

_LINUX = ("linux", "android")
# unix(7): sun_path has 108 bytes on Linux and 104 on macOS and the BSDs, and a path in it ends with a NUL.
PATH_LIMIT = 107 if sys.platform in _LINUX else 103
# An abstract name begins with a NUL instead, and its length delimits it.
NAME_LIMIT = 107

_TYPES = (socket.SOCK_STREAM, socket.SOCK_SEQPACKET, socket.SOCK_DGRAM)


def checked_path(path: str | bytes | os.PathLike[str] | os.PathLike[bytes]) -> str:
    """`path` in absolute form. A relative one needs a working directory."""
    # Through bytes and back: two spellings of the same bytes become one, and a subclass of str becomes a str.
    absolute = os.fsdecode(os.fsencode(path))
    if not absolute:
        raise ValueError("path is empty")
    if "\0" in absolute:
        raise ValueError(f"path contains a NUL byte: {path!r}; use bind_abstract for an abstract name")
    if absolute.rpartition("/")[2] in ("", ".", ".."):
        raise ValueError(f"path must end in a file name: {path!r}")
    if not absolute.startswith("/"):
        try:
            # Joined, never normalised: link/../a.sock means what the kernel says it means.
            absolute = os.path.join(os.getcwd(), absolute)
        except OSError as error:
            name_path(error, absolute)
            raise
    _check_length(absolute, "bytes in absolute form", PATH_LIMIT)
    return absolute


def checked_name(name: str | bytes) -> str:
    """The address of the abstract `name`: a NUL, then the name."""
    if not isinstance(name, (str, bytes)):
        raise TypeError(f"name must be str or bytes, not {type(name).__name__}")
    decoded = os.fsdecode(os.fsencode(name))
    if not decoded:
        raise ValueError("name is empty: the kernel would choose one itself")
    _check_length(decoded, "bytes", NAME_LIMIT)
    if sys.platform not in _LINUX:
        raise OSError(errno.EOPNOTSUPP, "Abstract socket names exist on Linux only", decoded)
    return "\0" + decoded


def checked_type(type: int) -> int:
    if not isinstance(type, int) or type not in _TYPES:
        raise ValueError(f"type must be SOCK_STREAM, SOCK_SEQPACKET or SOCK_DGRAM, not {type!r}")
    return type


def checked_mode(mode: int | None) -> int | None:
    if mode is None:
        return None
    mode = _integer("mode", mode)
    # Owner write, since by unix(7) connecting needs write permission, and so does the probe of the next start.
    if mode & ~0o777 or not mode & 0o200:
        raise ValueError(f"mode must be permission bits, 0 to 0o777, with owner write (0o200), not {mode} ({mode:#o})")
    return mode


def checked_backlog(backlog: int | None) -> int | None:
    return None if backlog is None else _integer("backlog", backlog)


def checked_timeout(timeout: float | None) -> float:
    """Seconds; infinity for None."""
    if timeout is None:
        return float("inf")
    try:
        if timeout >= 0:  # false for NaN
            return float(timeout)
    except TypeError:
        raise TypeError(f"timeout must be a number of seconds or None, not {type(timeout).__name__}") from None
    raise ValueError(f"timeout must be at least 0 seconds or None, not {timeout!r}")


def _check_length(address: str, unit: str, limit: int) -> None:
    length = len(os.fsencode(address))
    if length > limit:
        words = f"{os.strerror(errno.ENAMETOOLONG)} ({length} {unit}, the limit is {limit})"
        raise OSError(errno.ENAMETOOLONG, words, address)


def _integer(argument: str, value: int) -> int:
    try:
        return operator.index(value)
    except TypeError:
        raise TypeError(f"{argument} must be an integer, not {type(value).__name__}") from None
