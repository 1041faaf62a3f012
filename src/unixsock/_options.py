"""The arguments beside the address, checked before anything is created.

A bad backlog that listen(2) finds out about comes too late: the name is bound by then.
"""

from __future__ import annotations

import math
import operator
import socket

_TYPES = (socket.SOCK_STREAM, socket.SOCK_SEQPACKET, socket.SOCK_DGRAM)
_INT_MIN, _INT_MAX = -(2**31), 2**31 - 1
_PERMISSION_BITS = 0o777
_OWNER_WRITE = 0o200


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
    if negative_or_nan:
        raise ValueError(f"timeout must be at least 0 seconds or None, not {timeout!r}")
    return float(timeout)


def _integer(argument: str, value: int) -> int:
    try:
        return operator.index(value)
    except TypeError:
        raise TypeError(f"{argument} must be an integer, not {type(value).__name__}") from None
