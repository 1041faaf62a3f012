"""Serve HTTP, or stand by until the present server has gone: standby.py PATH. Start it twice, and kill -9 the first.

Clients are refused ("Connection refused", or no file) from the end of the one until the other has bound: let them
try again. Ctrl-C and SIGTERM end both, whatever they are doing.
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
    """Answers every GET with the pid of the server."""

    timeout = 10.0  # seconds for a client to say something

    def do_GET(self) -> None:
        """Called by http.server."""
        self.send_response(200)
        self.end_headers()
        self.wfile.write(f"Hello from pid {os.getpid()}\n".encode())

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name
        """No log. The inherited one takes the client's host, and here a client has none."""


def leave(_number: int, _frame: object) -> None:
    """End the wait for the path."""
    sys.exit()


def bind_or_wait(path: str) -> tuple[socket.socket, unixsock.Guard]:
    """Bind `path`, however long another process has it. SystemExit when a signal comes meanwhile."""
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
    """Exit status 0 after Ctrl-C or SIGTERM, 1 after an error other than a taken path."""
    # What takes long to load goes here, before the wait.

    # Blocked, and waited for below. Only the wait for the path is ended by the handler's exception: raised later, it
    # could cut the cleaning up short.
    signal.pthread_sigmask(signal.SIG_BLOCK, STOP)
    for number in STOP:
        signal.signal(number, leave)
    try:
        sock, guard = bind_or_wait(path)
    except (OSError, ValueError) as error:
        print(f"standby.py: {error}", file=sys.stderr)
        sys.exit(os.EX_TEMPFAIL if isinstance(error, unixsock.AddressInUseError) else 1)

    with guard, socketserver.ThreadingUnixStreamServer(path, Hello, bind_and_activate=False) as server:
        server.socket.close()  # one of its own, not bound
        server.socket = sock
        server.daemon_threads = True  # clients that are not done do not keep the server from ending
        threading.Thread(target=server.serve_forever, daemon=True).start()
        print(f"pid {os.getpid()} listens at {guard.address}", flush=True)
        signal.sigwait(STOP)
        server.shutdown()


if __name__ == "__main__":
    if not sys.argv[1:]:
        sys.exit(__doc__)
    main(sys.argv[1])
