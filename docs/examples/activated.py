"""Serve HTTP on the socket that systemd passes: activated.py PATH.

If it is started without such a socket, it binds PATH itself.
"""

import contextlib
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

    def address_string(self) -> str:
        """Name the client in the log: the inherited method takes its host, and here a client has none."""
        return "local"


def listener(path: str) -> tuple[socket.socket, contextlib.AbstractContextManager[object]]:
    """Take the socket that systemd passes, which needs no guard because systemd owns it, or else bind `path`."""
    if os.environ.get("LISTEN_PID") == str(os.getpid()) and os.environ.get("LISTEN_FDS") == "1":
        os.set_inheritable(3, False)  # noqa: FBT003 - it has no name
        return socket.socket(fileno=3), contextlib.nullcontext()
    return unixsock.bind_exclusive(path, mode=0o660, timeout=5)


def main(path: str) -> None:
    """Exit with status 0 after SIGTERM or Ctrl-C, with 75 if the path is taken, and with 1 after any other error."""
    signal.pthread_sigmask(signal.SIG_BLOCK, STOP)
    try:
        sock, guard = listener(path)
    except (OSError, ValueError) as error:
        print(f"activated.py: {error}", file=sys.stderr)
        sys.exit(os.EX_TEMPFAIL if isinstance(error, unixsock.AddressInUseError) else 1)
    with guard, socketserver.ThreadingUnixStreamServer(path, Hello, bind_and_activate=False) as server:
        server.socket.close()  # the server has made one of its own, which is not bound
        server.socket = sock
        server.daemon_threads = True  # or a client that is not done would keep the server from exiting
        threading.Thread(target=server.serve_forever, daemon=True).start()
        print(f"pid {os.getpid()} listens at {sock.getsockname()}", flush=True)
        signal.sigwait(STOP)
        server.shutdown()


if __name__ == "__main__":
    main(sys.argv[1]) if sys.argv[1:] else sys.exit(__doc__)
