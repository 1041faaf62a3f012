"""What the usual ways to bind a Unix-domain socket do in nine situations, measured for docs/comparison.md.

    PYTHONPATH=src python3 tests/benchmarks/comparison.py                     all of ways.py that are installed: minutes
    PYTHONPATH=src python3 tests/benchmarks/comparison.py unixsock asyncio    these

Servers run in processes and directories of their own, are really killed and have real clients. A column is a function
of a Scene, and what it returns goes into the table. For Linux: /proc/net/unix lists what listens.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from importlib import metadata

import ways
from ways import SILENCE, UMASK, WAYS, listeners, until

PATIENCE = 20.0  # seconds for a start or a stop; a cell that would take longer is "?"
STARTERS = 8


class NotMeasuredError(Exception):
    """A way cannot be put through a column."""


class Server:
    """A process that serves `path` under a name once it gets the word. It leads a group of its own."""

    def __init__(self, key, name, path, directory, output):
        self.name = name
        self._channel, theirs = socket.socketpair()
        self._channel.settimeout(PATIENCE)
        self._lines = self._channel.makefile("r")
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, ways.__file__, key, path, directory],
                env={**os.environ, "WAYS_NAME": name},
                stdin=theirs,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    def order(self, line):
        self._channel.sendall(line.encode() + b"\n")

    def answer(self, order):
        self.order(order)
        return self.said()

    def said(self):
        try:
            return json.loads(self._lines.readline())
        except (OSError, ValueError):
            raise NotMeasuredError(f"{self.name} does not answer") from None

    def ended(self):
        return self._process.poll() is not None

    def stop(self):
        """As Ctrl-C does."""
        self._process.send_signal(signal.SIGINT)
        if not until(self.ended, PATIENCE):
            raise NotMeasuredError(f"{self.name} does not end")

    def kill(self):
        """SIGKILL for the whole group, so for its workers too."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def close(self):
        self.kill()
        self._lines.close()
        self._channel.close()


class Scene(contextlib.ExitStack):
    """A directory with a short name, and servers of one way in it. The end of the with statement removes both."""

    def __init__(self, key, rounds, output):
        super().__init__()
        self.settings = (key, rounds, output)
        self.directory = tempfile.mkdtemp(prefix="us-", dir="/tmp")
        self.callback(shutil.rmtree, self.directory)
        self.path = os.path.join(self.directory, "a.sock")

    def server(self, name, path=None):
        key, _, output = self.settings
        server = Server(key, name, path or self.path, self.directory, output)
        self.callback(server.close)
        return server

    def start(self, name, path=None):
        """The server once clients reach it; None when it has ended instead."""
        server = self.server(name, path)
        server.said()
        server.order("go")
        if not until(lambda: server.ended() or ask(self.path) == name, PATIENCE):
            raise NotMeasuredError(f"{name} neither serves nor ends")
        return None if server.ended() else server

    def serving(self, name, path=None):
        server = self.start(name, path)
        if not server:
            raise NotMeasuredError(f"{name} ends instead of serving")
        return server

    def socket_of_ours(self, directory):
        sock = self.enter_context(socket.socket(socket.AF_UNIX))
        sock.bind(os.path.join(directory, "a.sock"))
        return sock


def ask(path):
    """The name of the server that answers a client at `path`, None where none does."""
    answer = b""
    with socket.socket(socket.AF_UNIX) as client, contextlib.suppress(OSError):
        client.settimeout(SILENCE)
        client.connect(path)
        client.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        while chunk := client.recv(4096):
            answer += chunk
    found = re.search(rb"=(\w+)=", answer)
    return found and found[1].decode()


def reaches(path, listener):
    """Whether a client of `path` gets to this socket of ours."""
    listener.settimeout(0)
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(SILENCE)
        try:
            client.connect(path)
            listener.accept()[0].close()
        except OSError:
            return False
    return True


# The columns.


def second(scene):
    """A second start while the first serves. Where it succeeds, the first then stops."""
    first = scene.serving("first")
    if not scene.start("second"):
        return "refused" if ask(scene.path) == "first" else "both lost"
    first.stop()
    return "takes the path" if ask(scene.path) == "second" else "takes the path; stop deletes it"


def crash(scene):
    """A start after SIGKILL."""
    scene.serving("first").kill()
    return "starts" if scene.start("second") else "fails"


def file(scene):
    """A start where a regular file stands."""
    with open(scene.path, "w") as precious:
        precious.write("precious")
    serves = scene.start("first")
    if os.path.isfile(scene.path):
        return "kept"
    return "deleted" if serves else "deleted; fails"


def race(scene):
    """Starts at one moment on what a killed server has left: rounds that end with one server, which clients reach."""
    won, (_, rounds, _) = 0, scene.settings
    for _ in range(rounds):
        with Scene(*scene.settings) as place:
            place.serving("dead").kill()
            starters = [place.server(f"starter{number}") for number in range(STARTERS)]
            for starter in starters:
                starter.said()
            for starter in starters:
                starter.order("go")
            if not until(lambda: settled(place.path, starters), PATIENCE):  # noqa: B023 - called before the next round
                raise NotMeasuredError("some of the starters neither listen nor end")
            won += listeners(place.path) == 1 and ask(place.path) is not None
    return f"{won}/{rounds}"


def settled(path, starters):
    """Whether each listens or has ended, and for a while: one may yet fall over what another has done."""
    return not until(lambda: listeners(path) + sum(one.ended() for one in starters) != STARTERS, 0.2)


def unready(scene):
    """A start where a foreign server has bound and does not listen yet."""
    foreign = scene.socket_of_ours(scene.directory)
    scene.start("first")
    foreign.listen()
    return "safe" if reaches(scene.path, foreign) else "taken"


def busy(scene):
    """A start where a foreign server listens, and its backlog is full."""
    foreign = scene.socket_of_ours(scene.directory)
    foreign.listen(0)
    foreign.settimeout(0)
    with contextlib.suppress(BlockingIOError):
        while True:
            client = scene.enter_context(socket.socket(socket.AF_UNIX))
            client.settimeout(0)
            client.connect(scene.path)
    ended = True
    try:
        scene.start("first")
    except NotMeasuredError:
        ended = False
    with contextlib.suppress(BlockingIOError):
        while True:
            scene.enter_context(foreign.accept()[0])
    return "taken" if not reaches(scene.path, foreign) else "safe" if ended else "blocked"


def chdir(scene):
    """Bound by a relative path; then chdir to where another server has the same name; then a clean stop."""
    elsewhere = os.path.join(scene.directory, "d")
    os.mkdir(elsewhere)
    other = scene.socket_of_ours(elsewhere)
    other.listen()
    server = scene.serving("first", "a.sock")
    server.answer(f"chdir {elsewhere}")
    server.stop()
    if not reaches(os.path.join(elsewhere, "a.sock"), other):
        return "other deleted"
    return "own left" if os.path.exists(scene.path) else "right"


def fork(scene):
    """A forked child cleans up: what becomes of the parent."""
    done = scene.serving("first").answer("fork")
    if done is None:
        return "n/a"
    if not os.path.exists(scene.path):
        return "file removed"
    if ask(scene.path) != "first":
        return "deaf"
    return "fine" if done else "child hangs"


def bits(scene):
    """The mode of the socket file, and what it was before."""
    seen = scene.serving("first").answer("seen")
    mode = stat.S_IMODE(os.stat(scene.path).st_mode)
    if seen["umask"] is None:
        return f"{mode:o}, ?"  # it does not bind through Python
    if seen["umask"] != UMASK:
        return f"{mode:o}, umask changed"
    earlier = [f"{was:o} {'while' if listening else 'before'} listening" for was, listening in seen["before"]]
    return ", then ".join([*earlier, f"{mode:o}"])


COLUMNS = [second, crash, file, race, unready, busy, chdir, fork, bits]


def label(key):
    """The first cell of its row; None where it is not installed."""
    text, distribution, _ = WAYS[key]
    with contextlib.suppress(metadata.PackageNotFoundError):
        return text.format(metadata.version(distribution) if distribution else "")


def cells(key, rounds, output):
    for column in COLUMNS:
        with Scene(key, rounds, output) as scene:
            try:
                yield column(scene)
            except NotMeasuredError as why:
                print(f"{key}, {column.__name__}: {why}", file=sys.stderr)
                yield "?"


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition(":")[0])
    parser.add_argument("ways", nargs="*", metavar="WAY", help=", ".join(WAYS))
    parser.add_argument("--rounds", type=int, default=10, help="of the column race (default: 10)")
    parser.add_argument("--verbose", action="store_true", help="show what the servers print")
    arguments = parser.parse_args()
    keys = arguments.ways or list(WAYS)
    output = None if arguments.verbose else subprocess.DEVNULL

    print(f"{platform.system()} {platform.release()}, Python {platform.python_version()}, {time.strftime('%F')}\n")
    print("| way |", " | ".join(column.__name__ for column in COLUMNS), "|")
    print("| --- " * (len(COLUMNS) + 1) + "|", flush=True)
    for key in filter(label, keys):
        print(f"| {label(key)} |", " | ".join(cells(key, arguments.rounds, output)), "|", flush=True)
    missing = [key for key in keys if not label(key)]
    if missing:
        print("\nNot run, for they are not installed:", ", ".join(missing))


if __name__ == "__main__":
    main()
