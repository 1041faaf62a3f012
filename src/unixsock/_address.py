"""What may be bound: a path or a name is checked, and a path made absolute, before anything is created.

A relative path that is looked up anew at each step means another file after chdir(2): servers leave their socket
behind, or delete a stranger's. Invariant: one absolute string serves every step, and it fits ``sun_path``.
"""

from __future__ import annotations

import errno
import os
import sys

from unixsock._errors import name_path

# unix(7): sun_path has 108 bytes on Linux and 104 on macOS and the BSDs, and a path in it ends with a NUL.
PATH_LIMIT = 107 if sys.platform == "linux" else 103
# An abstract name begins with a NUL instead and is delimited by its length.
NAME_LIMIT = 107


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


def _too_long(given: str | bytes, why: str) -> OSError:
    return OSError(errno.ENAMETOOLONG, f"{os.strerror(errno.ENAMETOOLONG)} ({why})", given)
