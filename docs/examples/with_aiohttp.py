"""Serve HTTP with aiohttp on a Unix-domain socket that has one owner: with_aiohttp.py PATH."""

import os
import sys

from aiohttp import web

import unixsock


async def hello(_request: web.Request) -> web.Response:
    """The application."""
    return web.Response(text=f"Hello from pid {os.getpid()}\n")


def main(path: str) -> None:
    """Exit status 0 after SIGTERM or Ctrl-C, 1 when the path cannot be had."""
    try:
        sock, guard = unixsock.bind_exclusive(path, mode=0o660)
    except (OSError, ValueError) as error:
        sys.exit(f"with_aiohttp.py: {error}")
    app = web.Application()
    app.add_routes([web.get("/", hello)])
    with guard:
        print(f"pid {os.getpid()} listens at {guard.address}", flush=True)
        web.run_app(app, sock=sock, print=None)  # ends on SIGTERM by itself, and closes the socket


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]) if sys.argv[1:] else __doc__)
