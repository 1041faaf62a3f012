"""Serve HTTP from spawned workers that share one socket, until Ctrl-C or SIGTERM: spawn.py PATH [METHOD].

METHOD is multiprocessing's: spawn (default) or forkserver. When the parent is killed (kill -9), the workers serve on,
and the path is theirs until the last of them has ended. They have no guard, so the last one leaves a stale socket
file, which the next start removes.
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
    """Answers every GET with the pid of the worker."""

    timeout = 10.0  # seconds for a client to say something: until then it keeps the worker from ending

    def do_GET(self) -> None:
        """Called by http.server."""
        self.send_response(200)
        self.end_headers()
        self.wfile.write(f"Hello from pid {os.getpid()}\n".encode())

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name
        """No log. The inherited one takes the client's host, and here a client has none."""


def work(sock: socket.socket, lock: Any) -> None:  # noqa: ANN401 - multiprocessing does not name this type
    """What a worker does."""
    signal.pthread_sigmask(signal.SIG_BLOCK, STOP)
    # Not left to the parent, for PyPy makes a socket that it unpickles blocking.
    sock.settimeout(0)  # every worker hears of a client, one gets it, and the others must not wait in accept()
    lock.detach()  # takes the descriptor over from the parent: it stays open, and so the lock held, to the end
    with socketserver.ThreadingUnixStreamServer("", Hello, bind_and_activate=False) as server:
        server.socket.close()  # one of its own, not bound
        server.socket = sock
        threading.Thread(target=server.serve_forever, daemon=True).start()
        os.write(1, b"worker %d\n" % os.getpid())  # in one piece, for all workers write to the same place
        signal.sigwait(STOP)
        server.shutdown()  # accepts no more; the end of the with statement waits for the requests in progress


def main(path: str, method: str) -> None:
    """Exit status 0 after Ctrl-C or SIGTERM, 75 when the path is taken, 1 after another error."""
    multiprocessing.resource_tracker.ensure_running()  # now: its start unblocks both signals
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
