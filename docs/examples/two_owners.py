"""Two usual ways to bind a Unix-domain socket, and bind_exclusive: a second start, and a start after kill -9.

Each start is a process of its own, and what is printed is what came of it. Exit status 0 when unlink-then-bind
took a running server's path, bind alone could not start again after kill -9, and bind_exclusive did neither; else 1.
"""

from __future__ import annotations

import os
import select
import socket
import subprocess
import sys
import tempfile
from typing import TYPE_CHECKING

import unixsock

if TYPE_CHECKING:
    from collections.abc import Callable


def bind_alone(path: str) -> tuple[socket.socket, socket.socket]:
    """Fails on a name that is there, alive or not."""
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(path)
    sock.listen()
    return sock, sock


def unlink_then_bind(path: str) -> tuple[socket.socket, socket.socket]:
    """Succeeds even where a server has the path."""
    if os.path.exists(path):
        os.unlink(path)
    return bind_alone(path)


# Each returns a listening socket, and what is to be closed when it is done with.
WAYS: dict[str, Callable[[str], tuple[socket.socket, socket.socket | unixsock.Guard]]] = {
    "unlink, then bind": unlink_then_bind,
    "bind alone": bind_alone,
    "bind_exclusive": unixsock.bind_exclusive,
}


def serve(way: str, path: str) -> None:
    """One start: say what came of it, then send each client our pid, until the pipe to the parent ends."""
    try:
        sock, owner = WAYS[way](path)
    except OSError as error:
        print("is refused:", error, flush=True)
        return
    with owner:
        print("listens", flush=True)
        while True:
            ready, _, _ = select.select([sock, sys.stdin], [], [])
            if sock in ready:
                with sock.accept()[0] as client:
                    client.sendall(b"%d" % os.getpid())
            elif sys.stdin.readline():
                print("still listens at", sock.getsockname(), flush=True)
            else:
                return


class Start:
    """A process that runs serve(); the end of the with statement kills it."""

    def __init__(self, way: str, path: str) -> None:
        """Wait until it has said what came of it."""
        command = [sys.executable, __file__, way, path]
        self.process = subprocess.Popen(  # noqa: S603 - this very program
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdin  # noqa: S101 - for type checkers: both are pipes
        assert self.process.stdout  # noqa: S101
        self.stdin, self.stdout = self.process.stdin, self.process.stdout
        self.name = f"pid {self.process.pid}"
        self.outcome = self.stdout.readline().strip()

    def __enter__(self) -> Start:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.process.kill()  # SIGKILL
        self.process.communicate()  # closes the pipes and waits for the end

    def ask(self) -> str:
        """What it says of itself, over its pipe: that works also where no client gets to it."""
        self.stdin.write("?\n")
        self.stdin.flush()
        return self.stdout.readline().strip()


def reached(path: str) -> str:
    """What a client gets to."""
    with socket.socket(socket.AF_UNIX) as client:
        try:
            client.connect(path)
        except OSError as error:
            return f"no server ({error.strerror})"
        return f"pid {client.recv(64).decode()}"


def play(way: str, path: str) -> tuple[bool, bool]:
    """Whether a second start took the first server's path, and whether a start after kill -9 can be reached."""
    print(way)
    with Start(way, path) as first:
        print(f"  first start     {first.name} {first.outcome}")
        print(f"  a client        gets to {reached(path)}")
        with Start(way, path) as second:
            print(f"  second start    {second.name} {second.outcome}")
            got = reached(path)
            print(f"  a client        gets to {got}")
            said = first.ask()
            print(f"  the first one   {first.name} {said}")
            lost = said.startswith("still listens") and got != first.name
    with Start(way, path) as third:
        print(f"  after kill -9   {third.name} {third.outcome}")
        got = reached(path)
        print(f"  a client        gets to {got}")
        restarted = got == third.name
    print(f"  => a running server {'loses' if lost else 'keeps'} its path;", end=" ")
    print(f"after a crash the next start {'works' if restarted else 'fails'}\n", flush=True)
    return lost, restarted


def main() -> int:
    """Play all three, each in a directory of its own that is gone afterwards."""
    seen = {}
    for way in WAYS:
        with tempfile.TemporaryDirectory() as directory:
            seen[way] = play(way, os.path.join(directory, "a.sock"))
    expected = {"unlink, then bind": (True, True), "bind alone": (False, False), "bind_exclusive": (False, True)}
    return 0 if seen == expected else 1


if __name__ == "__main__":
    if not sys.argv[1:]:
        sys.exit(main())
    serve(*sys.argv[1:])
