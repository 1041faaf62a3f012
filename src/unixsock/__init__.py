"""Unix-domain sockets whose address has one owner, even after a crash.

bind_exclusive(path) and bind_abstract(name) return a bound socket and the guard that holds the address.
A refused call raises AddressInUseError, an OSError. Everything else in this package is private.
"""

try:
    import fcntl as _fcntl  # noqa: F401 - before any module of ours needs it, so that the message says what is missing
except ImportError as _error:
    raise ImportError("unixsock needs flock(2), and this Python has no fcntl", name="fcntl") from _error

from unixsock._bind import bind_abstract, bind_exclusive
from unixsock._errors import AddressInUseError
from unixsock._guard import Guard

__all__ = ["AddressInUseError", "Guard", "bind_abstract", "bind_exclusive"]
