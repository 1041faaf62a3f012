"""The arguments: checked before anything is created, and a path is made absolute.

A relative path that is resolved again at each step means another file after chdir(2): servers leave their socket file
behind, or delete another program's. Invariant: one absolute ``str`` serves every step and fits ``sun_path``.
Nothing is created here.
"""

from __future__ import annotations

import errno
import operator
import os
import socket
import sys

try:
    # Now, not when a name is looked up: a process that has given up its rights may not read its interpreter's files.
    import grp
except ImportError:
    grp = None  # type: ignore[assignment]  # Android, where no group has a name

from unixsock._errors import name_path

LINUX = ("linux", "android")

# The permission bits; the group's number, -1 for none as chown(2) has it; and the group as the caller gave it.
Access = tuple[int, int, object]

# unix(7): sun_path has 108 bytes on Linux and 104 on macOS and the BSDs, and a path in it ends with a NUL.
_PATH_LIMIT = 107 if sys.platform in LINUX else 103
# An abstract name begins with a NUL instead, and its length delimits it.
_NAME_LIMIT = 107


def is_abstract(address: str) -> bool:
    return address.startswith("\0")


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
    _check_length(absolute, "bytes in absolute form", _PATH_LIMIT)
    return absolute


def checked_name(name: str | bytes) -> str:
    """The address of the abstract `name`: a NUL, then the name."""
    if not isinstance(name, (str, bytes)):
        raise TypeError(f"name must be str or bytes, not {type(name).__name__}")
    decoded = os.fsdecode(os.fsencode(name))
    if not decoded:
        raise ValueError("name is empty: the kernel would choose one itself")
    if is_abstract(decoded):
        raise ValueError(f"name begins with a NUL, which is added here: pass {name[1:]!r}")
    _check_length(decoded, "bytes", _NAME_LIMIT)
    if sys.platform not in LINUX:
        raise OSError(errno.EOPNOTSUPP, "Abstract socket names exist on Linux only", decoded)
    return "\0" + decoded


def checked_type(type: int) -> int:
    if not isinstance(type, int) or type not in (socket.SOCK_STREAM, socket.SOCK_SEQPACKET, socket.SOCK_DGRAM):
        raise ValueError(f"type must be SOCK_STREAM, SOCK_SEQPACKET or SOCK_DGRAM, not {type!r}")
    return type


def checked_access(mode: int | None, group: str | int | None) -> Access | None:
    """Who may connect: None if that is left to the system."""
    if mode is None and group is None:
        return None
    bits = 0 if mode is None else _integer("mode", mode)
    # Owner write: connecting needs write permission (unix(7)), and so does the probe when the next server starts.
    if mode is not None and (bits & ~0o777 or not bits & 0o200):
        raise ValueError(f"mode must be permission bits, 0 to 0o777, with owner write (0o200), not {bits} ({bits:#o})")
    if group is None:
        return bits, -1, None
    if isinstance(group, bool):
        raise TypeError("group must be a name or an integer, not bool")
    number = _number_of(group) if isinstance(group, str) else _integer("group", group)
    if not 0 <= number < 2**32 - 1:
        raise ValueError(f"group must be a number from 0 to 2**32 - 2, not {number}")
    if not bits & 0o020:
        raise ValueError("group must come with a mode that has group write (0o020), or its members cannot connect")
    return bits, number, group


def checked_backlog(backlog: int | None) -> int | None:
    if backlog is None:
        return None
    backlog = _integer("backlog", backlog)
    if not -(2**31) <= backlog < 2**31:
        raise OverflowError(f"backlog must fit a C int, -2**31 to 2**31 - 1, not {backlog}")
    return backlog


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


def _number_of(group: str) -> int:
    try:
        return grp.getgrnam(group).gr_gid
    except (KeyError, ValueError, AttributeError):
        raise ValueError(f"group must be the name of a group here, or its number as an int, not {group!r}") from None


def _integer(argument: str, value: int) -> int:
    try:
        return operator.index(value)
    except TypeError:
        raise TypeError(f"{argument} must be an integer, not {type(value).__name__}") from None
