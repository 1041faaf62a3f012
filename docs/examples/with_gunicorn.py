"""Serve a WSGI application with gunicorn on a Unix-domain socket that has one owner: with_gunicorn.py PATH."""

import os
import sys
from collections.abc import Callable, Iterable
from typing import Any

from gunicorn.app.base import BaseApplication

import unixsock


def hello(_environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """Answer every request with the pid of the server; this is the application."""
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [f"Hello from pid {os.getpid()}\n".encode()]


class Server(BaseApplication):
    """Run gunicorn without its command line."""

    def __init__(self, **settings: object) -> None:
        """Take gunicorn's settings by their names."""
        self.settings = settings
        super().__init__()

    def load_config(self) -> None:
        """Set gunicorn's settings; gunicorn calls this."""
        for name, value in self.settings.items():
            if name in self.cfg.settings:  # gunicorn before 25.1 has no control socket
                self.cfg.set(name, value)

    def load(self) -> Callable[..., Any]:
        """Return the application; gunicorn calls this."""
        return hello


def main(path: str) -> None:
    """Exit with status 0 after SIGTERM or Ctrl-C, with 75 if the path is taken, and with 1 after any other error."""
    try:
        # gunicorn listens only if the socket does not listen yet, so its own setting of 2048 has no effect here, and
        # Python's default is 128 at most. (Not socket.SOMAXCONN, which some systems' headers define as 128.)
        sock, guard = unixsock.bind_exclusive(path, mode=0o660, backlog=2048, timeout=5)
    except (OSError, ValueError) as error:
        print(f"with_gunicorn.py: {error}", file=sys.stderr)
        sys.exit(os.EX_TEMPFAIL if isinstance(error, unixsock.AddressInUseError) else 1)
    # Workers are forked with both descriptors. A worker that outlives a killed gunicorn keeps the path until it exits.
    with guard:
        print(f"pid {os.getpid()} listens at {guard.address}", flush=True)
        # gunicorn closes the descriptor, which is why it gets it by detach(), and unlinks the path when it begins to
        # stop. The lock is held until the last worker has exited, so no other copy can have bound the path by then.
        Server(
            bind=f"fd://{sock.detach()}",
            workers=2,
            threads=4,
            graceful_timeout=5,  # seconds for the requests in progress when it stops; the default is 30
            loglevel="warning",
            control_socket_disable=True,  # because all gunicorns of a user share one path for it
        ).run()


if __name__ == "__main__":
    if not sys.argv[1:]:
        sys.exit(__doc__)
    main(sys.argv[1])
