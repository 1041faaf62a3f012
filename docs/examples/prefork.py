"""Serve HTTP from forked workers that share one socket, until Ctrl-C or SIGTERM ends them: prefork.py PATH.

The parent only starts and stops workers. If it is killed (kill -9), they keep serving, and they keep the path until the
last of them has exited. To stop them, kill the pids that were printed, or those that `fuser PATH.lock` lists.
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
    """Answer every GET request with the pid of the worker."""

    timeout = 10.0  # seconds; a client that sends nothing keeps its worker from exiting for so long

    def do_GET(self) -> None:
        """Answer a GET request; http.server calls this."""
        self.send_response(200)
        self.end_headers()
        self.wfile.write(f"Hello from pid {os.getpid()}\n".encode())

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name
        """Log nothing: the inherited method takes the client's host, and a client of a Unix-domain socket has none."""


def serve(sock: socket.socket) -> None:
    """Serve until SIGTERM or Ctrl-C; a worker does this."""
    with socketserver.ThreadingUnixStreamServer("", Hello, bind_and_activate=False) as server:
        server.socket.close()  # the server has made one of its own, which is not bound
        server.socket = sock
        threading.Thread(target=server.serve_forever, daemon=True).start()
        signal.sigwait(STOP)
        server.shutdown()  # it accepts no more, and the end of the with statement waits for the requests in progress


def start_worker(sock: socket.socket) -> int:
    """Fork a worker, and return its pid."""
    pid = os.fork()
    if pid == 0:
        serve(sock)
        sys.exit()  # not os._exit(), because the worker has to close its copy of the guard
    print(f"worker {pid}", flush=True)
    return pid


def noticed(_number: int, _frame: object) -> None:
    """Do nothing. Without a handler, SIGCHLD is ignored, and may not reach sigwait()."""


def main(path: str) -> None:
    """Exit with status 0 after SIGTERM or Ctrl-C, with 75 if the path is taken, and with 1 after any other error."""
    # The signals are blocked, and waited for, both here and in the workers.
    signal.pthread_sigmask(signal.SIG_BLOCK, {*STOP, signal.SIGCHLD})
    signal.signal(signal.SIGCHLD, noticed)
    try:
        sock, guard = unixsock.bind_exclusive(path, mode=0o660, timeout=5)
    except (OSError, ValueError) as error:
        print(f"prefork.py: {error}", file=sys.stderr)
        sys.exit(os.EX_TEMPFAIL if isinstance(error, unixsock.AddressInUseError) else 1)

    # Closing one copy of a guard changes nothing for the processes that still have theirs. The last process that closes
    # its copy removes the socket file. That is the parent, or, after its kill -9, a worker.
    with guard:
        sock.settimeout(0)  # a client wakes every worker, one gets it, and the others must not wait in accept()
        print(f"pid {os.getpid()} listens at {guard.address}", flush=True)
        workers = {start_worker(sock) for _ in range(WORKERS)}
        while signal.sigwait({*STOP, signal.SIGCHLD}) == signal.SIGCHLD:
            for died in [pid for pid in workers if os.waitpid(pid, os.WNOHANG) != (0, 0)]:
                print(f"worker {died} has died", flush=True)
                time.sleep(0.1)  # so that workers which die at once do not keep a processor busy
                workers.remove(died)
                workers.add(start_worker(sock))
        # The workers finish their requests first. If a copy of the socket stayed open here, new clients could connect
        # meanwhile, and would get no answer.
        sock.close()
        for pid in workers:
            os.kill(pid, signal.SIGTERM)
        for pid in workers:
            os.waitpid(pid, 0)


if __name__ == "__main__":
    if not sys.argv[1:]:
        sys.exit(__doc__)
    main(sys.argv[1])
