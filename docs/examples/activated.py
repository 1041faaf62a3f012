"""Serve HTTP on the socket that systemd passes, or, started without one, on a path of its own: activated.py PATH."""

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
    """Answers every GET with the pid of the server."""

    timeout = 10.0  # seconds for a client to say something

    def do_GET(self) -> None:
        """Called by http.server."""
        self.send_response(200)
        self.end_headers()
        self.wfile.write(f"Hello from pid {os.getpid()}\n".encode())

    def address_string(self) -> str:
        """For the log. The inherited one takes the client's host, and here a client has none."""
        return "local"


def listener(path: str) -> tuple[socket.socket, contextlib.AbstractContextManager[object]]:
    """Take the socket that systemd passes, which needs no guard, since systemd owns it; or else bind `path`."""
    if os.environ.get("LISTEN_PID") == str(os.getpid()) and os.environ.get("LISTEN_FDS") == "1":
        os.set_inheritable(3, False)  # noqa: FBT003 - it has no name
        return socket.socket(fileno=3), contextlib.nullcontext()
    return unixsock.bind_exclusive(path, mode=0o660, timeout=5)


def main(path: str) -> None:
    """Exit status 0 after SIGTERM or Ctrl-C, 75 when the path is in use, 1 after other errors."""
    signal.pthread_sigmask(signal.SIG_BLOCK, STOP)
    try:
        sock, guard = listener(path)
    except unixsock.AddressInUseError as error:
        print(f"activated.py: {error}", file=sys.stderr)
        sys.exit(os.EX_TEMPFAIL)
    except (OSError, ValueError) as error:
        sys.exit(f"activated.py: {error}")
    with guard, socketserver.ThreadingUnixStreamServer(path, Hello, bind_and_activate=False) as server:
        server.socket.close()  # one of its own, not bound
        server.socket = sock
        server.daemon_threads = True  # clients that are not done do not keep the server from ending
        threading.Thread(target=server.serve_forever, daemon=True).start()
        print(f"pid {os.getpid()} listens at {sock.getsockname()}", flush=True)
        signal.sigwait(STOP)
        server.shutdown()


if __name__ == "__main__":
    main(sys.argv[1]) if sys.argv[1:] else sys.exit(__doc__)
