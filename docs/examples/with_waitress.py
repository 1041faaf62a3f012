"""Serve a WSGI application with waitress on a Unix-domain socket that has one owner: with_waitress.py PATH."""

import os
import signal
import sys
from collections.abc import Callable, Iterable
from typing import Any

import waitress

import unixsock


def hello(_environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """Answer every request with the pid of the server; this is the application."""
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [f"Hello from pid {os.getpid()}\n".encode()]


def main(path: str) -> None:
    """Exit with status 0 after SIGTERM or Ctrl-C, with 75 if the path is taken, and with 1 after any other error."""
    try:
        sock, guard = unixsock.bind_exclusive(path, mode=0o660, timeout=5)
    except (OSError, ValueError) as error:
        print(f"with_waitress.py: {error}", file=sys.stderr)
        sys.exit(os.EX_TEMPFAIL if isinstance(error, unixsock.AddressInUseError) else 1)

    def stop(*_: object) -> None:
        # At once, because waitress finishes its requests first, and clients that connect meanwhile would get no answer.
        sock.close()
        sys.exit()

    with guard:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, stop)
        print(f"pid {os.getpid()} listens at {guard.address}", flush=True)
        waitress.serve(hello, sockets=[sock])


if __name__ == "__main__":
    if not sys.argv[1:]:
        sys.exit(__doc__)
    main(sys.argv[1])
