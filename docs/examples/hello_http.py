"""Serve HTTP on a Unix-domain socket that has one owner, until Ctrl-C or SIGTERM ends it."""

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
    """Answer every GET request with the pid of the server."""

    timeout = 10.0  # seconds until a client that sends nothing is cut off

    def do_GET(self) -> None:
        """Answer a GET request; http.server calls this."""
        body = f"Hello from pid {os.getpid()}\n".encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/plain")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def address_string(self) -> str:
        """Name the client in the log: the inherited method takes its host, and here a client has none."""
        return "local"


def main() -> None:
    """Exit with status 0 after SIGTERM or Ctrl-C, with 75 if the path is taken, and with 1 after any other error."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("path", metavar="PATH", help="where the socket goes")
    path = parser.parse_args().path

    # The signals are blocked, and waited for below, because an exception that a signal raises could cut the cleaning up
    # short. A program that is started from here inherits this, and has to unblock them.
    signal.pthread_sigmask(signal.SIG_BLOCK, STOP)
    try:
        sock, guard = unixsock.bind_exclusive(path)
    except (OSError, ValueError) as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        sys.exit(os.EX_TEMPFAIL if isinstance(error, unixsock.AddressInUseError) else 1)

    # The guard is the outermost, so that it closes after the server that uses the socket.
    with guard, socketserver.ThreadingUnixStreamServer(path, Hello, bind_and_activate=False) as server:
        server.socket.close()  # the server has made one of its own, which is not bound
        server.socket = sock
        server.daemon_threads = True  # or a client that is not done would keep the server from exiting
        threading.Thread(target=server.serve_forever, daemon=True).start()

        command = f"curl --unix-socket {shlex.quote(guard.address)} http://localhost/"
        says = f"pid {os.getpid()} listens at {guard.address}\nAsk it: {command}\n"
        os.write(sys.stdout.fileno(), os.fsencode(says))  # print() fails if the path is not UTF-8
        signal.sigwait(STOP)
        server.shutdown()


if __name__ == "__main__":
    main()
