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
    """Exit status 0 after Ctrl-C or SIGTERM, 1 when the path cannot be had."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("path", metavar="PATH", help="where the socket goes")
    path = parser.parse_args().path

    # Blocked, and waited for below: raised as an exception, a signal could cut the cleaning up short. (A program that
    # is started from here inherits this: let it unblock them.)
    signal.pthread_sigmask(signal.SIG_BLOCK, STOP)
    try:
        sock, guard = unixsock.bind_exclusive(path)
    except (OSError, ValueError) as error:  # taken, not a socket, no such directory, too long, empty ...
        sys.exit(f"{parser.prog}: {error}")

    # The guard is the outermost: it closes after the server that uses the socket.
    with guard, socketserver.ThreadingUnixStreamServer(path, Hello, bind_and_activate=False) as server:
        server.socket.close()  # one of its own, not bound
        server.socket = sock
        server.daemon_threads = True  # clients that are not done do not keep the server from ending
        threading.Thread(target=server.serve_forever, daemon=True).start()

        # A reader of a pipe sees each line at once; a path that is not UTF-8 is printed as the bytes that it is.
        sys.stdout.reconfigure(line_buffering=True, errors="surrogateescape")
        print(f"pid {os.getpid()} listens at {guard.address}")
        print(f"Ask it: curl --unix-socket {shlex.quote(guard.address)} http://localhost/")
        signal.sigwait(STOP)
        server.shutdown()


if __name__ == "__main__":
    main()
