"""Ask a daemon that starts when it is needed: on_demand.py PATH WORD ... Its output goes to PATH.log.

The client connects. If nobody listens, it starts the daemon, which is this program without a WORD, and tries again.
Clients need no lock: of the daemons that several of them start at once one binds, and the others exit with status 75.
"""

import os
import signal
import socket
import socketserver
import subprocess
import sys
import threading
import time

import unixsock

PATIENCE = 10.0  # seconds in which the daemon has to start and to answer


class Call(socketserver.StreamRequestHandler):
    """A call is one line of words, and its answer is one line of text."""

    timeout = PATIENCE  # for so long a client that sends nothing keeps the next one waiting

    def handle(self) -> None:
        """Answer one client; socketserver calls this."""
        self.wfile.write(b"pid %d has done: %s" % (os.getpid(), self.rfile.readline()))


def serve(path: str) -> None:
    """Be the daemon. Exit with status 0 after SIGTERM, 75 if the path is taken, and 1 after any other error."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    try:
        sock, guard = unixsock.bind_exclusive(path, mode=0o600)
    except (OSError, ValueError) as error:
        print(f"pid {os.getpid()}: {error}\n", end="", flush=True)  # in one write(2): others write this log, too
        sys.exit(os.EX_TEMPFAIL if isinstance(error, unixsock.AddressInUseError) else 1)
    with guard, socketserver.UnixStreamServer(path, Call, bind_and_activate=False) as server:
        server.socket.close()  # the server has made one of its own, which is not bound
        server.socket = sock
        print(f"pid {os.getpid()} listens at {guard.address}\n", end="", flush=True)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        signal.sigwait({signal.SIGTERM})
        server.shutdown()


def start(path: str) -> subprocess.Popen[bytes]:
    """Start the daemon out of reach of this terminal, in a directory that stays, with a log for its output."""
    argv = [sys.executable, os.path.abspath(__file__), path]
    with open(f"{path}.log", "ab") as log:
        return subprocess.Popen(  # noqa: S603 - this program
            argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, cwd="/"
        )


def connect(client: socket.socket, path: str) -> None:
    """Connect to the daemon, and start it if there is none."""
    deadline = time.monotonic() + PATIENCE
    daemon = None
    while True:
        try:
            return client.connect(path)
        except (FileNotFoundError, ConnectionRefusedError, BlockingIOError) as error:  # the last: its queue is full
            status = daemon.poll() if daemon else os.EX_TEMPFAIL
            if time.monotonic() > deadline or status == 1:
                raise
            if status is not None and not isinstance(error, BlockingIOError):
                daemon = start(path)  # again if ours has exited, as one that is refused does
        time.sleep(0.02)


def ask(path: str, words: list[str]) -> str:
    """Return the answer of the daemon. It may have done the work even if no answer comes, so this asks only once."""
    with socket.socket(socket.AF_UNIX) as client, client.makefile("rw", encoding="utf-8") as lines:
        client.settimeout(PATIENCE)
        connect(client, path)
        print(*words, file=lines, flush=True)
        return lines.readline() or sys.exit("on_demand.py: no answer")


if __name__ == "__main__":
    if not sys.argv[1:]:
        sys.exit(__doc__)
    path = os.path.join(os.getcwd(), sys.argv[1])
    try:
        print(ask(path, sys.argv[2:]), end="") if sys.argv[2:] else serve(path)
    except (OSError, ValueError) as error:
        sys.exit(f"on_demand.py: {error} (the daemon's log is {path}.log)")
