"""Serve HTTP from forked workers that share one socket, until Ctrl-C or SIGTERM: prefork.py PATH.

The parent only starts and ends workers. When it is killed (kill -9), they serve on, and the path is theirs until the
last of them has ended. To end them, kill the pids that were printed, or those that `fuser PATH.lock` finds.
"""

import http.server
import os
import signal
import socket
import socketserver
import sys
import threading
import time

import unixsock

WORKERS = 4
STOP = {signal.SIGINT, signal.SIGTERM}


class Hello(http.server.BaseHTTPRequestHandler):
    """Answers every GET with the pid of the worker."""

    timeout = 10.0  # seconds for a client to say something: until then it keeps the worker from ending

    def do_GET(self) -> None:
        """Called by http.server."""
        self.send_response(200)
        self.end_headers()
        self.wfile.write(f"Hello from pid {os.getpid()}\n".encode())

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name
        """No log. The inherited one takes the client's host, and here a client has none."""


def serve(sock: socket.socket) -> None:
    """What a worker does."""
    with socketserver.ThreadingUnixStreamServer("", Hello, bind_and_activate=False) as server:
        server.socket.close()  # one of its own, not bound
        server.socket = sock
        threading.Thread(target=server.serve_forever, daemon=True).start()
        signal.sigwait(STOP)
        server.shutdown()  # accepts no more; the end of the with statement waits for the requests in progress


def start_worker(sock: socket.socket) -> int:
    """Fork a worker. Returns its pid."""
    pid = os.fork()
    if pid == 0:
        serve(sock)
        sys.exit()  # and not os._exit(): on its way out it closes its copy of the guard
    print(f"worker {pid}", flush=True)
    return pid


def noticed(_number: int, _frame: object) -> None:
    """A handler that does nothing: a signal that is ignored by default may not reach sigwait()."""


def main(path: str) -> None:
    """Exit status 0 after Ctrl-C or SIGTERM, 75 when the path is taken, 1 after another error."""
    # Blocked, and waited for, here and in the workers.
    signal.pthread_sigmask(signal.SIG_BLOCK, {*STOP, signal.SIGCHLD})
    signal.signal(signal.SIGCHLD, noticed)
    try:
        sock, guard = unixsock.bind_exclusive(path, mode=0o660, timeout=5)
    except (OSError, ValueError) as error:
        print(f"prefork.py: {error}", file=sys.stderr)
        sys.exit(os.EX_TEMPFAIL if isinstance(error, unixsock.AddressInUseError) else 1)

    # Closing one copy of a guard changes nothing for the processes that still have theirs. The last one to close
    # removes the socket file: that is the parent, or a worker after kill -9.
    with guard:
        sock.settimeout(0)  # every worker hears of a client, one gets it, and the others must not wait in accept()
        print(f"pid {os.getpid()} listens at {guard.address}", flush=True)
        workers = {start_worker(sock) for _ in range(WORKERS)}
        while signal.sigwait({*STOP, signal.SIGCHLD}) == signal.SIGCHLD:
            for dead in [pid for pid in workers if os.waitpid(pid, os.WNOHANG) != (0, 0)]:
                print(f"worker {dead} has died", flush=True)
                time.sleep(0.1)  # or workers that die at once would keep a processor busy
                workers.remove(dead)
                workers.add(start_worker(sock))
        # The workers finish their requests first. A copy of the socket that is still open here would let new clients
        # connect meanwhile, and they would get no answer.
        sock.close()
        for pid in workers:
            os.kill(pid, signal.SIGTERM)
        for pid in workers:
            os.waitpid(pid, 0)


if __name__ == "__main__":
    if not sys.argv[1:]:
        sys.exit(__doc__)
    main(sys.argv[1])
