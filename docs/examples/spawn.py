"""Serve HTTP from spawned workers that share one socket, until Ctrl-C or SIGTERM ends them: spawn.py PATH [METHOD].

METHOD is a start method of multiprocessing: spawn (the default) or forkserver. If the parent is killed (kill -9), the
workers keep serving, and they keep the path until the last of them has exited. They have no guard, so the last one
leaves a stale socket file, which the next server to start removes.
"""

import http.server
import multiprocessing
import multiprocessing.reduction
import multiprocessing.resource_tracker
import os
import signal
import socket
import socketserver
import sys
import threading
from typing import Any

import unixsock

WORKERS = 4
STOP = {signal.SIGINT, signal.SIGTERM}


class Hello(http.server.BaseHTTPRequestHandler):
    """Answer every GET request with the pid of the worker."""

    timeout = 10.0  # seconds; a client that sends nothing keeps its worker from exiting for so long

    def do_GET(self) -> None:
        """Answer a GET request; http.server calls this."""
        self.send_response(200)
        self.end_headers()
        self.wfile.write(f"Hello from pid {os.getpid()}\n".encode())

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name
        """Log nothing: the inherited method takes the client's host, and a client of a Unix-domain socket has none."""


def work(sock: socket.socket, lock: Any) -> None:  # noqa: ANN401 - multiprocessing does not name this type
    """Serve until SIGTERM or Ctrl-C; a worker does this."""
    signal.pthread_sigmask(signal.SIG_BLOCK, STOP)
    # This is not left to the parent, because PyPy makes a socket blocking when it unpickles it.
    sock.settimeout(0)  # a client wakes every worker, one gets it, and the others must not wait in accept()
    lock.detach()  # takes over the descriptor, which stays open, and so keeps the lock, until the worker exits
    with socketserver.ThreadingUnixStreamServer("", Hello, bind_and_activate=False) as server:
        server.socket.close()  # the server has made one of its own, which is not bound
        server.socket = sock
        threading.Thread(target=server.serve_forever, daemon=True).start()
        os.write(1, b"worker %d\n" % os.getpid())  # in one piece, because all workers write to one place
        signal.sigwait(STOP)
        server.shutdown()  # it accepts no more, and the end of the with statement waits for the requests in progress


def main(path: str, method: str) -> None:
    """Exit with status 0 after SIGTERM or Ctrl-C, with 75 if the path is taken, and with 1 after any other error."""
    multiprocessing.resource_tracker.ensure_running()  # now, because starting it unblocks both signals
    signal.pthread_sigmask(signal.SIG_BLOCK, STOP)
    try:
        sock, guard = unixsock.bind_exclusive(path, mode=0o660, timeout=5)
    except (OSError, ValueError) as error:
        print(f"spawn.py: {error}", file=sys.stderr)
        sys.exit(os.EX_TEMPFAIL if isinstance(error, unixsock.AddressInUseError) else 1)

    with guard:
        print(f"pid {os.getpid()} listens at {guard.address}", flush=True)
        context: Any = multiprocessing.get_context(method)
        workers = [
            context.Process(target=work, args=(sock, multiprocessing.reduction.DupFd(guard.fileno())))
            for _ in range(WORKERS)
        ]
        for worker in workers:
            worker.start()
        signal.sigwait(STOP)
        sock.close()  # or new clients could connect while the workers finish their requests
        for worker in workers:
            worker.terminate()
        for worker in workers:
            worker.join()


if __name__ == "__main__":
    if not sys.argv[1:]:
        sys.exit(__doc__)
    main(sys.argv[1], (*sys.argv[2:], "spawn")[0])
