"""Unix-domain sockets whose address has one owner, also after a crash.

bind_exclusive(path) and bind_abstract(name) return a bound socket and the guard that owns the address.
A refused call raises AddressInUseError, an OSError. Everything else in this package is private.
"""

try:
    import fcntl as _fcntl  # noqa: F401 - only to say what is missing before any module of ours asks for it
except ImportError as error:
    raise ImportError(
        "unixsock needs flock(2) and Unix-domain sockets: this Python has no fcntl", name="fcntl"
    ) from error

from unixsock._bind import bind_abstract, bind_exclusive
from unixsock._errors import AddressInUseError
from unixsock._guard import Guard

__all__ = ["AddressInUseError", "Guard", "bind_abstract", "bind_exclusive"]
