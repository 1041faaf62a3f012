"""Serve HTTP with Twisted on a Unix-domain socket that has one owner: with_twisted.py PATH."""

import os
import sys

from twisted.internet import reactor, unix
from twisted.web.resource import Resource
from twisted.web.server import Request, Site

import unixsock

MODE = 0o660


class Hello(Resource):
    """The application."""

    isLeaf = True  # noqa: N815 - Twisted's name

    def render_GET(self, request: Request) -> bytes:  # noqa: N802 - the same
        """Called by Twisted."""
        request.setHeader("Content-Type", "text/plain")
        return f"Hello from pid {os.getpid()}\n".encode()


def main(path: str) -> None:
    """Exit status 0 after SIGTERM or Ctrl-C, 75 when the path is taken, 1 after another error."""
    try:
        sock, guard = unixsock.bind_exclusive(path, mode=MODE, timeout=5)
    except (OSError, ValueError) as error:
        print(f"with_twisted.py: {error}", file=sys.stderr)
        sys.exit(os.EX_TEMPFAIL if isinstance(error, unixsock.AddressInUseError) else 1)
    with guard:
        print(f"pid {os.getpid()} listens at {guard.address}", flush=True)
        sock.settimeout(0)  # non-blocking, as Twisted expects
        # These three lines are reactor.adoptStreamPort(), but for the mode: it makes that 0666, and all can connect
        # until it is set back. At the end Twisted unlinks the path, while we hold the lock.
        port = unix.Port._fromListeningDescriptor(reactor, sock.fileno(), Site(Hello()))  # noqa: SLF001
        port.mode = MODE
        port.startListening()
        reactor.run()


if __name__ == "__main__":
    if not sys.argv[1:]:
        sys.exit(__doc__)
    main(sys.argv[1])
