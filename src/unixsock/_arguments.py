"""The arguments, checked before anything is created; a path is made absolute.

A relative path that is looked up anew at each step means another file after chdir(2): servers leave their socket
behind, or delete a stranger's. A bad backlog that listen(2) finds out about comes too late: the name is bound by
then. Invariant: one absolute string serves every step, it fits ``sun_path``, and no argument fails later.
"""

from __future__ import annotations

import errno
import math
import operator
import os
import socket
import sys

from unixsock._errors import name_path

# unix(7): sun_path has 108 bytes on Linux and 104 on macOS and the BSDs, and a path in it ends with a NUL.
PATH_LIMIT = 107 if sys.platform == "linux" else 103
# An abstract name begins with a NUL instead and is delimited by its length.
NAME_LIMIT = 107

_TYPES = (socket.SOCK_STREAM, socket.SOCK_SEQPACKET, socket.SOCK_DGRAM)
_INT_MIN, _INT_MAX = -(2**31), 2**31 - 1
_PERMISSION_BITS = 0o777
_OWNER_WRITE = 0o200


def checked_path(path: str | bytes) -> str | bytes:
    """`path` in absolute form. Touches no file, but needs a working directory where `path` is relative."""
    encoded = os.fsencode(path)
    if not encoded:
        raise ValueError("path is empty")
    if b"\0" in encoded:
        raise ValueError(f"path has a NUL byte in it: {path!r}; for an abstract name there is bind_abstract")
    if encoded.rpartition(b"/")[2] in (b"", b".", b".."):
        raise ValueError(f"path must end in a file name: {path!r}")
    if not encoded.startswith(b"/"):
        try:
            # Joined, never normalised: link/../a.sock means what the kernel says it means.
            encoded = os.path.join(os.getcwdb(), encoded)
        except OSError as error:
            name_path(error, path)
            raise
    if len(encoded) > PATH_LIMIT:
        raise _too_long(path, f"{len(encoded)} bytes in absolute form, the limit is {PATH_LIMIT}")
    return os.fsdecode(encoded) if isinstance(path, str) else encoded


def checked_name(name: str | bytes) -> bytes:
    """`name` as bind(2) takes it: a NUL, then its bytes."""
    if not isinstance(name, (str, bytes)):
        raise TypeError(f"name must be str or bytes, not {type(name).__name__}")
    encoded = os.fsencode(name)
    if not encoded:
        raise ValueError("name is empty: the kernel would pick a name of its own")
    if len(encoded) > NAME_LIMIT:
        raise _too_long(name, f"{len(encoded)} bytes, the limit of an abstract name is {NAME_LIMIT}")
    if sys.platform != "linux":
        raise OSError(errno.EOPNOTSUPP, "Abstract socket names exist on Linux only", name)
    return b"\0" + encoded


def checked_type(kind: int) -> int:
    if not isinstance(kind, int) or kind not in _TYPES:
        raise ValueError(f"type must be SOCK_STREAM, SOCK_SEQPACKET or SOCK_DGRAM, not {kind!r}")
    return kind


def checked_mode(mode: int | None) -> int | None:
    if mode is None:
        return None
    bits = _integer("mode", mode)
    if not 0 <= bits <= _PERMISSION_BITS:
        raise ValueError(f"mode must be permission bits from 0 to 0o777, not {bits:#o}")
    if not bits & _OWNER_WRITE:
        # unix(7): connecting needs write permission, and so does the next start's look.
        raise ValueError(f"mode must give its owner write permission (0o200), {bits:#o} does not")
    return bits


def checked_backlog(backlog: int | None) -> int | None:
    if backlog is None:
        return None
    length = _integer("backlog", backlog)
    if not _INT_MIN <= length <= _INT_MAX:
        raise OverflowError("backlog must fit a C int")
    return length


def checked_timeout(timeout: float | None) -> float:
    """Seconds; infinity for None."""
    if timeout is None:
        return math.inf
    try:
        negative_or_nan = timeout < 0 or math.isnan(timeout)
    except TypeError:
        raise TypeError(f"timeout must be a number of seconds or None, not {type(timeout).__name__}") from None
    except OverflowError:
        raise OverflowError("timeout must fit a float; None waits without limit") from None
    except ArithmeticError:
        negative_or_nan = True  # decimal.Decimal("nan") cannot even be compared
    if negative_or_nan:
        raise ValueError(f"timeout must be at least 0 seconds or None, not {timeout!r}")
    return float(timeout)


def _too_long(given: str | bytes, why: str) -> OSError:
    return OSError(errno.ENAMETOOLONG, f"{os.strerror(errno.ENAMETOOLONG)} ({why})", given)


def _integer(argument: str, value: int) -> int:
    try:
        return operator.index(value)
    except TypeError:
        raise TypeError(f"{argument} must be an integer, not {type(value).__name__}") from None
