"""Serve a WSGI application with waitress on a Unix-domain socket that has one owner: with_waitress.py PATH."""

import os
import signal
import sys
from collections.abc import Callable, Iterable
from typing import Any

import waitress

import unixsock


def hello(_environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """The application."""
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [f"Hello from pid {os.getpid()}\n".encode()]


def main(path: str) -> None:
    """Exit status 0 after SIGTERM or Ctrl-C, 1 when the path cannot be had."""
    try:
        sock, guard = unixsock.bind_exclusive(path, mode=0o660)
    except (OSError, ValueError) as error:
        sys.exit(f"with_waitress.py: {error}")
    with guard:
        # waitress leaves SIGTERM alone. This ends it in the way that Ctrl-C does.
        signal.signal(signal.SIGTERM, lambda *_: sys.exit())
        print(f"pid {os.getpid()} listens at {guard.address}", flush=True)
        waitress.serve(hello, sockets=[sock])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]) if sys.argv[1:] else __doc__)
