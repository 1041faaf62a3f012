"""Serve HTTP, or stand by until the present server has exited: standby.py PATH.

Start it twice, and kill -9 the first. From its end until the second has bound, clients find no socket file or get
"Connection refused", and have to try again. Ctrl-C or SIGTERM ends either of them, whatever it is doing.
"""

import http.server
import os
import signal
import socket
import socketserver
import sys
import threading

import unixsock

STOP = {signal.SIGINT, signal.SIGTERM}


class Hello(http.server.BaseHTTPRequestHandler):
    """Answer every GET request with the pid of the server."""

    timeout = 10.0  # seconds until a client that sends nothing is cut off

    def do_GET(self) -> None:
        """Answer a GET request; http.server calls this."""
        self.send_response(200)
        self.end_headers()
        self.wfile.write(f"Hello from pid {os.getpid()}\n".encode())

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name
        """Log nothing: the inherited method takes the client's host, and a client of a Unix-domain socket has none."""


def leave(_number: int, _frame: object) -> None:
    """Stop waiting for the path."""
    sys.exit()


def bind_or_wait(path: str) -> tuple[socket.socket, unixsock.Guard]:
    """Bind `path`, however long another process owns it. A signal that comes meanwhile raises SystemExit."""
    try:
        return unixsock.bind_exclusive(path, mode=0o660)
    except unixsock.AddressInUseError as error:
        print(f"pid {os.getpid()} stands by: {error}", flush=True)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP)
    try:
        return unixsock.bind_exclusive(path, mode=0o660, timeout=None)
    finally:
        signal.pthread_sigmask(signal.SIG_BLOCK, STOP)


def main(path: str) -> None:
    """Exit with status 0 after SIGTERM or Ctrl-C, and with 1 after an error; a path that is taken is none."""
    # What takes long to load goes here, before the wait.

    # The signals are blocked, and waited for below. Only the wait for the path is ended by the handler's exception: if
    # it were raised later, it could cut the cleaning up short.
    signal.pthread_sigmask(signal.SIG_BLOCK, STOP)
    for number in STOP:
        signal.signal(number, leave)
    try:
        sock, guard = bind_or_wait(path)
    except (OSError, ValueError) as error:
        print(f"standby.py: {error}", file=sys.stderr)
        sys.exit(os.EX_TEMPFAIL if isinstance(error, unixsock.AddressInUseError) else 1)

    with guard, socketserver.ThreadingUnixStreamServer(path, Hello, bind_and_activate=False) as server:
        server.socket.close()  # the server has made one of its own, which is not bound
        server.socket = sock
        server.daemon_threads = True  # or a client that is not done would keep the server from exiting
        threading.Thread(target=server.serve_forever, daemon=True).start()
        print(f"pid {os.getpid()} listens at {guard.address}", flush=True)
        signal.sigwait(STOP)
        server.shutdown()


if __name__ == "__main__":
    if not sys.argv[1:]:
        sys.exit(__doc__)
    main(sys.argv[1])
