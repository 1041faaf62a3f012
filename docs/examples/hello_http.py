"""Serve HTTP on a Unix-domain socket that has one owner, until Ctrl-C or SIGTERM."""

import argparse
import http.server
import os
import shlex
import signal
import socketserver
import sys
import threading

import unixsock

STOP = {signal.SIGINT, signal.SIGTERM}
ASK = (  # without curl
    "import socket, sys; s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); "
    r's.sendall(b"GET / HTTP/1.0\r\n\r\n"); print(s.makefile().read())'
)


class Hello(http.server.BaseHTTPRequestHandler):
    """Answers every GET with the pid of the server."""

    timeout = 10.0  # seconds for a client to say something

    def do_GET(self) -> None:
        """Called by http.server."""
        body = f"Hello from pid {os.getpid()}\n".encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/plain")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def address_string(self) -> str:
        """For the log. The inherited one takes the client's host, and here a client has none."""
        return "local"


def main() -> None:
    """Exit status 0 after Ctrl-C or SIGTERM, 75 when the path is taken, 1 after another error."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("path", metavar="PATH", help="where the socket goes")
    path = parser.parse_args().path

    # Blocked, and waited for below: raised as an exception, a signal could cut the cleaning up short. (A program that
    # is started from here inherits this: let it unblock them.)
    signal.pthread_sigmask(signal.SIG_BLOCK, STOP)
    try:
        sock, guard = unixsock.bind_exclusive(path)
    except (OSError, ValueError) as error:  # taken, not a socket, no such directory, too long, empty ...
        print(f"{parser.prog}: {error}", file=sys.stderr)
        sys.exit(os.EX_TEMPFAIL if isinstance(error, unixsock.AddressInUseError) else 1)

    # The guard is the outermost: it closes after the server that uses the socket.
    with guard, socketserver.ThreadingUnixStreamServer(path, Hello, bind_and_activate=False) as server:
        server.socket.close()  # one of its own, not bound
        server.socket = sock
        server.daemon_threads = True  # clients that are not done do not keep the server from ending
        threading.Thread(target=server.serve_forever, daemon=True).start()

        address = shlex.quote(guard.address)
        says = f"""pid {os.getpid()} listens at {guard.address}
Ask it: curl --unix-socket {address} http://localhost/
    or: python3 -c '{ASK}' {address}
"""
        os.write(sys.stdout.fileno(), os.fsencode(says))  # at once, and a path that is not UTF-8 as it is
        signal.sigwait(STOP)
        server.shutdown()


if __name__ == "__main__":
    main()
