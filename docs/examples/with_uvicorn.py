"""Serve an ASGI application with uvicorn on a Unix-domain socket that has one owner: with_uvicorn.py PATH."""

import os
import signal
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import uvicorn

import unixsock


async def hello(scope: dict[str, Any], _receive: object, send: Callable[[dict[str, Any]], Awaitable[None]]) -> None:
    """Answer every request with the pid of the server; this is the application."""
    if scope["type"] != "http":
        return  # uvicorn asks for "lifespan" first
    body = f"Hello from pid {os.getpid()}\n".encode()
    headers = [(b"content-type", b"text/plain"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def main(path: str) -> None:
    """Exit with status 0 after SIGTERM or Ctrl-C, with 75 if the path is taken, and with 1 after any other error."""
    try:
        sock, guard = unixsock.bind_exclusive(path, mode=0o660, timeout=5)
    except (OSError, ValueError) as error:
        print(f"with_uvicorn.py: {error}", file=sys.stderr)
        sys.exit(os.EX_TEMPFAIL if isinstance(error, unixsock.AddressInUseError) else 1)
    with guard:
        # When uvicorn has stopped, it raises the signal again. Without a handler, SIGTERM would end the process there,
        # before the guard could remove the socket file.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: sys.exit())
        print(f"pid {os.getpid()} listens at {guard.address}", flush=True)
        # Not uvicorn.run(hello, fd=...), which works on a duplicate: while it drains, clients could connect to ours.
        uvicorn.Server(uvicorn.Config(hello, log_level="warning")).run(sockets=[sock])


if __name__ == "__main__":
    if not sys.argv[1:]:
        sys.exit(__doc__)
    main(sys.argv[1])
