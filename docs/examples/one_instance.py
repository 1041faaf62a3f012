"""Let one process do the work of all copies of the program: one_instance.py PATH WORD ...

The first copy does what its words say, and then serves at PATH until Ctrl-C or SIGTERM ends it. Every later copy hands
its words over to the first, prints the answer, and exits. If it gets no answer, it exits with an error. The work may be
done by then, so run it again only if doing the work twice does no harm.
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
PATIENCE = 5.0  # seconds in which the first copy has to answer, or to let go of the path


def do(words: list[str]) -> str:
    """Do the work of one call, in the process that serves, and return the answer."""
    print("done:", *words, flush=True)
    return f"pid {os.getpid()} has done: {' '.join(words)}\n"


class Call(socketserver.StreamRequestHandler):
    """A call is one line of JSON, and its answer is one line of text."""

    timeout = PATIENCE  # for so long a client that sends nothing keeps the next one waiting

    def handle(self) -> None:
        """Answer one client; socketserver calls this."""
        try:
            line = self.rfile.readline()
            if line.endswith(b"\n"):
                self.wfile.write(do(json.loads(line)).encode())
        except OSError:
            pass  # the client has gone


def hand_over(path: str, words: list[str]) -> str | None:
    """Return the answer of the first copy, or None if nothing was sent, because that has just exited or is busy."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(PATIENCE)
        try:
            client.connect(path)
        except (FileNotFoundError, ConnectionRefusedError, BlockingIOError):
            return None
        # From here on the work may have been done, even if no answer comes. So there is no second try.
        client.sendall(json.dumps(words).encode() + b"\n")
        with client.makefile("rb") as answer:
            text = answer.readline().decode()
    if not text.endswith("\n"):
        raise ConnectionAbortedError(f"no answer from {path}")
    return text


def bind_or_hand_over(path: str, words: list[str]) -> tuple[socket.socket, unixsock.Guard] | str:
    """Bind the path and become the one that serves, or return the answer of the one that does."""
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
    """Exit with status 0, with 75 if the path is taken and nobody answers there, and with 1 after any other error."""
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
        server.socket.close()  # the server has made one of its own, which is not bound
        server.socket = sock
        print(do(words), end="", flush=True)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        signal.sigwait(STOP)
        server.shutdown()  # this waits for the call that is being answered


if __name__ == "__main__":
    if not sys.argv[2:]:
        sys.exit(__doc__)
    main(sys.argv[1], sys.argv[2:])
