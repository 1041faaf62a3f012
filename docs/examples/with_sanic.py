"""Serve HTTP with sanic on a Unix-domain socket that has one owner: with_sanic.py PATH."""

import os
import sys

from sanic import Request, Sanic, text
from sanic.response import HTTPResponse

import unixsock

app = Sanic("hello")


@app.get("/")
async def hello(_request: Request) -> HTTPResponse:
    """Answer every request with the pid of the server; this is the application."""
    return text(f"Hello from pid {os.getpid()}\n")


def main(path: str) -> None:
    """Exit with status 0 after SIGTERM or Ctrl-C, with 75 if the path is taken, and with 1 after any other error."""
    try:
        sock, guard = unixsock.bind_exclusive(path, mode=0o660, timeout=5)
    except (OSError, ValueError) as error:
        print(f"with_sanic.py: {error}", file=sys.stderr)
        sys.exit(os.EX_TEMPFAIL if isinstance(error, unixsock.AddressInUseError) else 1)
    with guard:
        print(f"pid {os.getpid()} listens at {guard.address}", flush=True)
        # It runs in one process, because sanic's workers are spawned and would have neither the socket nor the lock.
        app.run(sock=sock, single_process=True, motd=False, access_log=False)


if __name__ == "__main__":
    if not sys.argv[1:]:
        sys.exit(__doc__)
    main(sys.argv[1])
