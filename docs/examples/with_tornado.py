"""Serve HTTP with tornado on a Unix-domain socket that has one owner: with_tornado.py PATH."""

import asyncio
import os
import signal
import socket
import sys

import tornado.httpserver
import tornado.web

import unixsock


class Hello(tornado.web.RequestHandler):
    """Answer every GET request with the pid of the server; this is the application."""

    def get(self) -> None:
        """Answer a GET request; tornado calls this."""
        self.set_header("Content-Type", "text/plain")
        self.write(f"Hello from pid {os.getpid()}\n")


async def serve(sock: socket.socket) -> None:
    """Serve until SIGTERM or Ctrl-C."""
    stopped = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    server = tornado.httpserver.HTTPServer(tornado.web.Application([("/", Hello)]))
    sock.settimeout(0)  # tornado expects this, because it accepts until no client is waiting
    server.add_socket(sock)
    await stopped.wait()
    server.stop()  # this closes the socket
    await server.close_all_connections()


def main(path: str) -> None:
    """Exit with status 0 after SIGTERM or Ctrl-C, with 75 if the path is taken, and with 1 after any other error."""
    try:
        sock, guard = unixsock.bind_exclusive(path, mode=0o660, timeout=5)
    except (OSError, ValueError) as error:
        print(f"with_tornado.py: {error}", file=sys.stderr)
        sys.exit(os.EX_TEMPFAIL if isinstance(error, unixsock.AddressInUseError) else 1)
    with guard:
        print(f"pid {os.getpid()} listens at {guard.address}", flush=True)
        asyncio.run(serve(sock))


if __name__ == "__main__":
    if not sys.argv[1:]:
        sys.exit(__doc__)
    main(sys.argv[1])
