"""Serve an ASGI application with hypercorn on a Unix-domain socket that has one owner: with_hypercorn.py PATH."""

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import hypercorn
import hypercorn.asyncio

import unixsock


async def hello(scope: dict[str, Any], _receive: object, send: Callable[[dict[str, Any]], Awaitable[None]]) -> None:
    """Answer every request with the pid of the server; this is the application."""
    if scope["type"] != "http":
        return  # hypercorn asks for "lifespan" first
    body = f"Hello from pid {os.getpid()}\n".encode()
    headers = [(b"content-type", b"text/plain"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def main(path: str) -> None:
    """Exit with status 0 after SIGTERM or Ctrl-C, with 75 if the path is taken, and with 1 after any other error."""
    try:
        sock, guard = unixsock.bind_exclusive(path, mode=0o660, timeout=5)
    except (OSError, ValueError) as error:
        print(f"with_hypercorn.py: {error}", file=sys.stderr)
        sys.exit(os.EX_TEMPFAIL if isinstance(error, unixsock.AddressInUseError) else 1)
    with guard:
        print(f"pid {os.getpid()} listens at {guard.address}", flush=True)
        config = hypercorn.Config()
        config.bind = [f"fd://{sock.detach()}"]  # not fileno(), because hypercorn closes the descriptor
        config.loglevel = "WARNING"
        asyncio.run(hypercorn.asyncio.serve(hello, config))


if __name__ == "__main__":
    if not sys.argv[1:]:
        sys.exit(__doc__)
    main(sys.argv[1])
