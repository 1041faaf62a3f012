"""Serve HTTP with sanic on a Unix-domain socket that has one owner: with_sanic.py PATH."""

import os
import sys

from sanic import Request, Sanic, text
from sanic.response import HTTPResponse

import unixsock

app = Sanic("hello")


@app.get("/")
async def hello(_request: Request) -> HTTPResponse:
    """The application."""
    return text(f"Hello from pid {os.getpid()}\n")


def main(path: str) -> None:
    """Exit status 0 after SIGTERM or Ctrl-C, 1 when the path cannot be had."""
    try:
        sock, guard = unixsock.bind_exclusive(path, mode=0o660)
    except (OSError, ValueError) as error:
        sys.exit(f"with_sanic.py: {error}")
    with guard:
        print(f"pid {os.getpid()} listens at {guard.address}", flush=True)
        # In one process: sanic's workers are spawned, and would have neither the socket nor the lock.
        app.run(sock=sock, single_process=True, motd=False, access_log=False)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]) if sys.argv[1:] else __doc__)
