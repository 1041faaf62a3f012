"""Serve HTTP, and replace the program without a gap: upgrade.py PATH.

Change this file, then kill -USR2 its pid. The running version starts the program anew, and passes on the descriptors of
the socket and of the lock. Once the new version is ready, the old one accepts no more connections, finishes those that
it has, and exits. Clients notice nothing, because there is one socket all the time, and a client that is not accepted
yet waits in its backlog. If the new version exits before it is ready, or takes too long, the old one keeps running.

The pid changes, so a service manager has to be told: systemd takes MAINPID= (sd_notify(3)) or reads a PIDFile=.
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
PATIENCE = 10.0  # seconds in which a new version has to be ready


class Hello(http.server.BaseHTTPRequestHandler):
    """Answer every GET request with the pid of the server."""

    timeout = 10.0  # seconds; a client that sends nothing keeps the server from exiting for so long

    def do_GET(self) -> None:
        """Answer a GET request; http.server calls this."""
        self.send_response(200)
        self.end_headers()
        self.wfile.write(f"Hello from pid {os.getpid()}\n".encode())

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name
        """Log nothing: the inherited method takes the client's host, and a client of a Unix-domain socket has none."""


def upgraded(path: str, sock: int, lock: int) -> bool:
    """Start this file anew, as it is now, with both descriptors, and return whether it got ready."""
    ready, report = os.pipe()
    command = [sys.executable, __file__, path, "--inherit", str(sock), str(lock), str(report)]
    with open(ready, "rb") as answer:
        try:
            # It also inherits the blocked signals, so none is lost that comes before it waits for them.
            new = subprocess.Popen(command, pass_fds=[sock, lock, report])  # noqa: S603 - this very program
        except OSError as error:
            print(f"pid {os.getpid()} serves on: {error}", flush=True)
            return False
        finally:
            os.close(report)
        # It writes a byte when it is ready. If the pipe ends without one, it has exited.
        if select.select([answer], [], [], PATIENCE)[0] and answer.read(1):
            if STOP & signal.sigpending():
                new.terminate()  # a signal that came meanwhile was meant for the server, whichever version that is
            print(f"pid {os.getpid()} leaves to pid {new.pid}", flush=True)
            return True
    new.kill()
    print(f"pid {os.getpid()} serves on: its new version was not ready, exit status {new.wait()}", flush=True)
    return False


def main() -> None:
    """Exit with status 0 after a signal or an upgrade, 75 if the path is taken, and 1 after any other error."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("path", metavar="PATH", help="where the socket goes")
    parser.add_argument("--inherit", metavar=("SOCKET", "LOCK", "READY"), nargs=3, type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()

    signal.pthread_sigmask(signal.SIG_BLOCK, {*STOP, UPGRADE})
    if options.inherit:
        # No guard comes with the descriptors. So this version leaves a stale socket file, which the next server to
        # start removes. Until then every other copy is refused with the pid of the first version, which took the lock.
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

    # A client wakes both versions, one gets it, and the other must not wait in accept(). They share this flag, so a
    # version that made the socket blocking would make it so for the other as well.
    sock.settimeout(0)
    server = socketserver.ThreadingUnixStreamServer(options.path, Hello, bind_and_activate=False)
    server.socket.close()  # the server has made one of its own, which is not bound
    server.socket = sock
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print(f"pid {os.getpid()} listens at {options.path}", flush=True)
    if report is not None:
        os.write(report, b".")
        os.close(report)

    while signal.sigwait({*STOP, UPGRADE}) == UPGRADE:
        if upgraded(options.path, sock.fileno(), lock):
            break
    server.shutdown()  # it accepts no more
    let_go()  # now, so that slow requests keep no other copy from starting if the new version dies
    server.server_close()  # this waits for the requests in progress


if __name__ == "__main__":
    main()
