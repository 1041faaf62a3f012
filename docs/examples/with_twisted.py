"""Serve HTTP with Twisted on a Unix-domain socket that has one owner: with_twisted.py PATH."""

import os
import sys

from twisted.internet import reactor, unix
from twisted.web.resource import Resource
from twisted.web.server import Request, Site

import unixsock

MODE = 0o660


class Hello(Resource):
    """Answer every GET request with the pid of the server; this is the application."""

    isLeaf = True  # noqa: N815 - Twisted's name

    def render_GET(self, request: Request) -> bytes:  # noqa: N802 - the same
        """Answer a GET request; Twisted calls this."""
        request.setHeader("Content-Type", "text/plain")
        return f"Hello from pid {os.getpid()}\n".encode()


def main(path: str) -> None:
    """Exit with status 0 after SIGTERM or Ctrl-C, with 75 if the path is taken, and with 1 after any other error."""
    try:
        sock, guard = unixsock.bind_exclusive(path, mode=MODE, timeout=5)
    except (OSError, ValueError) as error:
        print(f"with_twisted.py: {error}", file=sys.stderr)
        sys.exit(os.EX_TEMPFAIL if isinstance(error, unixsock.AddressInUseError) else 1)
    with guard:
        print(f"pid {os.getpid()} listens at {guard.address}", flush=True)
        sock.settimeout(0)  # Twisted expects a non-blocking socket
        # These three lines do what reactor.adoptStreamPort() does, except that it sets the mode to 0666, so that
        # everybody could connect until it was set back. In the end Twisted unlinks the path, while we hold the lock.
        port = unix.Port._fromListeningDescriptor(reactor, sock.fileno(), Site(Hello()))  # noqa: SLF001
        port.mode = MODE
        port.startListening()
        reactor.run()


if __name__ == "__main__":
    if not sys.argv[1:]:
        sys.exit(__doc__)
    main(sys.argv[1])
