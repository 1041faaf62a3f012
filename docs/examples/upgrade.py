"""Serve HTTP, and replace the program without a gap: upgrade.py PATH. Change this file, then kill -USR2 its pid.

The running version starts the program anew and passes both descriptors on, the socket's and the lock's. Once the new
version is ready, the old one accepts no more connections, finishes those it has, and leaves. Clients notice nothing:
there is one socket all the time, and a client that is not accepted yet waits in its backlog. A new version that ends
before it is ready, or takes too long, changes nothing.

The pid changes, and a service manager has to be told: systemd by MAINPID= (sd_notify(3)) or by its PIDFile=.
"""

import argparse
import http.server
import os
import select
import signal
import socket
import socketserver
import subprocess
import sys
import threading

import unixsock

STOP = {signal.SIGINT, signal.SIGTERM}
UPGRADE = signal.SIGUSR2  # as for nginx and gunicorn
PATIENCE = 10.0  # seconds for a new version to be ready


class Hello(http.server.BaseHTTPRequestHandler):
    """Answers every GET with the pid of the server."""

    timeout = 10.0  # seconds for a client to say something: until then it keeps the server from ending

    def do_GET(self) -> None:
        """Called by http.server."""
        self.send_response(200)
        self.end_headers()
        self.wfile.write(f"Hello from pid {os.getpid()}\n".encode())

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name
        """No log. The inherited one takes the client's host, and here a client has none."""


def upgraded(path: str, sock: int, lock: int) -> bool:
    """Start this file anew, as it is now, with the descriptors `sock` and `lock`; whether it is ready."""
    ready, report = os.pipe()
    command = [sys.executable, __file__, path, "--inherit", str(sock), str(lock), str(report)]
    with open(ready, "rb") as answer:
        try:
            # It also inherits the blocked signals: what is sent to it before it waits for them is not lost.
            new = subprocess.Popen(command, pass_fds=[sock, lock, report])  # noqa: S603 - this very program
        except OSError as error:
            print(f"pid {os.getpid()} serves on: {error}", flush=True)
            return False
        finally:
            os.close(report)
        # It writes a byte when it is ready. The pipe's end without one: it has ended.
        if select.select([answer], [], [], PATIENCE)[0] and answer.read(1):
            if STOP & signal.sigpending():
                new.terminate()  # told to stop meanwhile: that was meant for the server, whichever version it is
            print(f"pid {os.getpid()} leaves to pid {new.pid}", flush=True)
            return True
    new.kill()
    print(f"pid {os.getpid()} serves on: its new version was not ready, exit status {new.wait()}", flush=True)
    return False


def main() -> None:
    """Exit status 0 after Ctrl-C, SIGTERM or an upgrade, 75 when the path is taken, 1 after another error."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("path", metavar="PATH", help="where the socket goes")
    parser.add_argument("--inherit", metavar=("SOCKET", "LOCK", "READY"), nargs=3, type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()

    signal.pthread_sigmask(signal.SIG_BLOCK, {*STOP, UPGRADE})
    if options.inherit:
        # No guard comes with the descriptors, so the socket file stays in the end, stale, and the next start
        # removes it. Until then a start is refused; the pid in the refusal is the first version's, which
        # took the lock.
        for number in options.inherit:
            os.set_inheritable(number, False)  # noqa: FBT003 - it has no name
        inherited, lock, report = options.inherit
        sock = socket.socket(fileno=inherited)

        def let_go() -> None:
            sock.close()
            os.close(lock)
    else:
        try:
            sock, guard = unixsock.bind_exclusive(options.path, mode=0o660, timeout=5)
        except (OSError, ValueError) as error:
            print(f"{parser.prog}: {error}", file=sys.stderr)
            sys.exit(os.EX_TEMPFAIL if isinstance(error, unixsock.AddressInUseError) else 1)
        lock, report, let_go = guard.fileno(), None, guard.close

    # Both versions hear of a client, one gets it, and the other must not wait in accept(). They share this flag: a
    # version that made the socket blocking would make it so for the other, too.
    sock.settimeout(0)
    server = socketserver.ThreadingUnixStreamServer(options.path, Hello, bind_and_activate=False)
    server.socket.close()  # one of its own, not bound
    server.socket = sock
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print(f"pid {os.getpid()} listens at {options.path}", flush=True)
    if report is not None:
        os.write(report, b".")
        os.close(report)

    while signal.sigwait({*STOP, UPGRADE}) == UPGRADE:
        if upgraded(options.path, sock.fileno(), lock):
            break
    server.shutdown()  # accepts no more
    let_go()  # before the last requests are done: if the new version dies, they must not be in the next start's way
    server.server_close()  # waits for the requests in progress


if __name__ == "__main__":
    main()
