"""Serve HTTPS on a Unix-domain socket that has one owner, until Ctrl-C or SIGTERM: tls.py PATH CERTIFICATE KEY.

Ask it: curl --cacert CERTIFICATE --unix-socket PATH https://localhost/
"""

import contextlib
import http.server
import os
import signal
import socketserver
import ssl
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

    def handle(self) -> None:
        """No traceback for a client that speaks no TLS, or does not trust us."""
        with contextlib.suppress(ssl.SSLError):
            super().handle()

    def log_message(self, *_: object) -> None:
        """No log. The inherited one takes the client's host, and here a client has none."""


def main(path: str, certificate: str, key: str) -> None:
    """Exit status 0 after Ctrl-C or SIGTERM, 1 when the path cannot be had or the certificate is no good."""
    sys.stdout.reconfigure(line_buffering=True)
    signal.pthread_sigmask(signal.SIG_BLOCK, STOP)
    try:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        sock, guard = unixsock.bind_exclusive(path)
    except (OSError, ValueError) as error:
        sys.exit(f"tls.py: {error}")

    # The wrapper takes the descriptor out of `sock` (detach) and is the listening socket from here on. The guard keeps
    # the lock, but has no socket left to close: so the wrapper is closed first, by the server, and then the guard,
    # the outermost. The other way round, the guard would find the name in use, and leave it.
    with guard, socketserver.ThreadingUnixStreamServer(path, Hello, bind_and_activate=False) as server:
        server.socket.close()  # one of its own, not bound
        # The handshake comes with the first read, in the client's own thread: a client that does not shake hands
        # does not keep the others waiting.
        server.socket = context.wrap_socket(sock, server_side=True, do_handshake_on_connect=False)
        server.daemon_threads = True  # nor does it keep the server from ending
        threading.Thread(target=server.serve_forever, daemon=True).start()
        print(f"pid {os.getpid()} listens at {guard.address}")
        signal.sigwait(STOP)
        server.shutdown()


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:4]) if sys.argv[3:] else __doc__)
