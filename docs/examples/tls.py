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
        body = f"Hello from pid {os.getpid()}\n".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def handle(self) -> None:
        """No traceback for a client that speaks no TLS, or does not trust us."""
        with contextlib.suppress(ssl.SSLError):
            super().handle()

    def finish(self) -> None:
        """Close with TLS's close_notify: without it, a client cannot tell the end from an attacker's cut."""
        super().finish()
        if isinstance(self.connection, ssl.SSLSocket):
            with contextlib.suppress(OSError, ValueError):  # gone already, or there was no handshake
                self.connection.unwrap()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name
        """No log. The inherited one takes the client's host, and here a client has none."""


def main(path: str, certificate: str, key: str) -> None:
    """Exit status 0 after Ctrl-C or SIGTERM, 75 when the path is taken, 1 after another error."""
    signal.pthread_sigmask(signal.SIG_BLOCK, STOP)
    try:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        sock, guard = unixsock.bind_exclusive(path, mode=0o660, timeout=5)
    except (OSError, ValueError) as error:
        print(f"tls.py: {error}", file=sys.stderr)
        sys.exit(os.EX_TEMPFAIL if isinstance(error, unixsock.AddressInUseError) else 1)

    # The wrapper takes the descriptor out of `sock` (detach) and is the listening socket from here on. The guard keeps
    # the lock, but has no socket left to close: so the wrapper is closed first, by the server, and then the guard,
    # the outermost. The other way round, the guard would find the path in use, and leave it.
    with guard, socketserver.ThreadingUnixStreamServer(path, Hello, bind_and_activate=False) as server:
        server.socket.close()  # one of its own, not bound
        # The handshake comes with the first read, in the client's own thread: a client that does not shake hands
        # does not keep the others waiting.
        server.socket = context.wrap_socket(sock, server_side=True, do_handshake_on_connect=False)
        server.daemon_threads = True  # nor does it keep the server from ending
        threading.Thread(target=server.serve_forever, daemon=True).start()
        print(f"pid {os.getpid()} listens at {guard.address}", flush=True)
        signal.sigwait(STOP)
        server.shutdown()


if __name__ == "__main__":
    if not sys.argv[3:]:
        sys.exit(__doc__)
    main(*sys.argv[1:4])
