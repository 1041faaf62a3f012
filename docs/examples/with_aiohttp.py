"""Serve HTTP with aiohttp on a Unix-domain socket that has one owner: with_aiohttp.py PATH."""

import os
import sys

from aiohttp import web

import unixsock


async def hello(_request: web.Request) -> web.Response:
    """Answer every request with the pid of the server; this is the application."""
    return web.Response(text=f"Hello from pid {os.getpid()}\n")


def main(path: str) -> None:
    """Exit with status 0 after SIGTERM or Ctrl-C, with 75 if the path is taken, and with 1 after any other error."""
    try:
        sock, guard = unixsock.bind_exclusive(path, mode=0o660, timeout=5)
    except (OSError, ValueError) as error:
        print(f"with_aiohttp.py: {error}", file=sys.stderr)
        sys.exit(os.EX_TEMPFAIL if isinstance(error, unixsock.AddressInUseError) else 1)
    app = web.Application()
    app.add_routes([web.get("/", hello)])
    with guard:
        print(f"pid {os.getpid()} listens at {guard.address}", flush=True)
        web.run_app(app, sock=sock, print=None)  # it handles SIGTERM, and closes the socket


if __name__ == "__main__":
    if not sys.argv[1:]:
        sys.exit(__doc__)
    main(sys.argv[1])
