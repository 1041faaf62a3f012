"""Let one process do the work of all: one_instance.py PATH WORD ... Start it as often as you like.

The first one does what its words say, and serves at PATH until Ctrl-C or SIGTERM. Each later one hands its words over,
prints the answer, and ends. Without an answer it ends with an error: ask again if doing it twice does no harm.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import socketserver
import sys
import threading
import time

import unixsock

STOP = {signal.SIGINT, signal.SIGTERM}
PATIENCE = 5.0  # seconds for the one that runs to answer, or to let go


def do(words: list[str]) -> str:
    """What is done once for each call, in the process that serves."""
    print("done:", *words, flush=True)
    return f"pid {os.getpid()} has done: {' '.join(words)}\n"


class Call(socketserver.StreamRequestHandler):
    """A line of JSON, and a line for an answer."""

    timeout = PATIENCE  # a client that sends nothing keeps the next one waiting for so long

    def handle(self) -> None:
        """Called by socketserver."""
        try:
            line = self.rfile.readline()
            if line.endswith(b"\n"):
                self.wfile.write(do(json.loads(line)).encode())
        except OSError:
            pass  # a client that has gone


def hand_over(path: str, words: list[str]) -> str | None:
    """What the one that runs answers. None if it has just gone or is busy: nothing was sent then."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(PATIENCE)
        try:
            client.connect(path)
        except (FileNotFoundError, ConnectionRefusedError, BlockingIOError):
            return None
        # From here on it may have done it, answered or not: so no second try.
        client.sendall(json.dumps(words).encode() + b"\n")
        with client.makefile("rb") as answer:
            text = answer.readline().decode()
    if not text.endswith("\n"):
        raise ConnectionAbortedError(f"no answer from {path}")
    return text


def bind_or_hand_over(path: str, words: list[str]) -> tuple[socket.socket, unixsock.Guard] | str:
    """Be the one that serves, or have the answer of the one that does."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            return unixsock.bind_exclusive(path, mode=0o600)
        except unixsock.AddressInUseError:
            text = hand_over(path, words)
            if text is not None:
                return text
            if time.monotonic() > deadline:
                raise
        time.sleep(0.01)


def main(path: str, words: list[str]) -> None:
    """Exit status 0, 75 when the path is taken and no process answers there, 1 after another error."""
    try:
        outcome = bind_or_hand_over(path, words)
    except (OSError, ValueError) as error:
        print(f"one_instance.py: {error}", file=sys.stderr)
        sys.exit(os.EX_TEMPFAIL if isinstance(error, unixsock.AddressInUseError) else 1)
    if isinstance(outcome, str):
        print(outcome, end="")
        return

    sock, guard = outcome
    signal.pthread_sigmask(signal.SIG_BLOCK, STOP)
    with guard, socketserver.UnixStreamServer(path, Call, bind_and_activate=False) as server:
        server.socket.close()  # one of its own, not bound
        server.socket = sock
        print(do(words), end="", flush=True)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        signal.sigwait(STOP)
        server.shutdown()  # after the call that is being done


if __name__ == "__main__":
    if not sys.argv[2:]:
        sys.exit(__doc__)
    main(sys.argv[1], sys.argv[2:])
