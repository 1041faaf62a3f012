"""What unixsock costs, beside the calls that it is made of and what else there is: a table, and docs/cost.svg.

    python -m pip install --group benchmark --editable .
    python tests/benchmarks/bench.py

Two ways that are compared are measured in turns, call by call, so that a busy machine slows down both. The exit
status is 1 when a ratio is beyond its limit. Times are shown, and not held against anybody.
"""

from __future__ import annotations

import fcntl
import gc
import os
import platform
import resource
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import tracemalloc
from pathlib import Path

import filelock
import matplotlib as mpl
from matplotlib.figure import Figure

import unixsock

ROUNDS = 15  # each gives a ratio; the one in the middle is held against the limit
TURNS = 300  # in a round
OTHER_LOCKS = 1_000
GUARDS = 10_000
INTERPRETERS = 60

TESTS = Path(__file__).parents[1]
CHART = TESTS.parent / "docs" / "cost.svg"
# In memory, as /run is: on a disk, the disk is what is measured.
MEMORY = "/dev/shm" if os.path.isdir("/dev/shm") else None


class Report:
    """Prints the table row by row, and knows whether all ratios were within their limits."""

    def __init__(self):
        self.holds = True
        print("| what | µs | against µs | ratio, lowest and highest of the rounds | limit | |")
        print("| --- | --- | --- | --- | --- | --- |")

    def ratio(self, what, these, those, least=None, most=None):
        """Seconds, a median of each round, against the seconds of the same rounds. Returns the ratio."""
        by_round = [this / that for this, that in zip(these, those)]
        middle = statistics.median(by_round)
        holds = (least is None or least <= middle) and (most is None or middle <= most)
        self.holds = self.holds and holds
        limits = [f"{word} {limit}" for word, limit in (("at least", least), ("at most", most)) if limit is not None]
        spread = f"{middle:.3g} ({min(by_round):.3g} to {max(by_round):.3g})"
        self._row(what, micros(these), micros(those), spread, limit=", ".join(limits), holds=holds)
        return middle

    def time(self, what, these, below=None):
        limit = "" if below is None else f"below {below} µs"
        holds = below is None or statistics.median(these) * 1e6 < below
        self._row(what, micros(these), "", "", limit=limit, holds=holds)

    def _row(self, what, *cells, limit, holds):
        verdict = "" if not limit else "holds" if holds else "missed"
        print("|", " | ".join((what, *cells, limit, verdict)), "|", flush=True)


def micros(seconds):
    return f"{statistics.median(seconds) * 1e6:,.1f}"


# The ways to bind: each returns a listening socket, and what its second half needs to give the address up.


def six_calls(path):
    lock = os.open(path + ".lock", os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return unlink_and_bind(path), lock


def close_six_calls(path, sock, lock):
    sock.close()
    os.unlink(path)
    os.close(lock)


def with_filelock(path):
    lock = filelock.FileLock(path + ".lock")
    lock.acquire(blocking=False)
    return unlink_and_bind(path), lock


def close_with_filelock(path, sock, lock):
    sock.close()
    os.unlink(path)
    lock.release()


def close_with_unixsock(path, sock, guard):
    guard.close()


def same_calls(path):
    """The system calls that unixsock makes, and none of its Python."""
    lock = lock_and_clear(path)
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(path)
    sock.listen()
    return sock, lock


def close_same_calls(path, sock, lock):
    sock.close()
    os.close(lock)
    os.close(lock_and_clear(path))


def lock_and_clear(path):
    lock = os.open(path + ".lock", os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK)
    os.fstat(lock)
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.lstat(path + ".lock")
    try:
        os.lstat(path)
        os.rename(path, path)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as probe:
            probe.connect_ex(path)
        with socket.socket(socket.AF_UNIX) as probe:
            probe.settimeout(0)
            probe.connect_ex(path)
        os.unlink(path)
    except FileNotFoundError:
        pass
    return lock


def unlink_and_bind(path):
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(path)
    sock.listen()
    return sock


BARE = (six_calls, close_six_calls)
SAME_CALLS = (same_calls, close_same_calls)
OURS = (unixsock.bind_exclusive, close_with_unixsock)
FILELOCK = (with_filelock, close_with_filelock)


def leave_nothing(path):
    """What stands at the path before a bind."""


def leave_stale(path):
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(path)


def in_turns(*ways):
    """Seconds that each way takes, the median of each round: a list of rounds for each way.

    A way is called once in a turn, and returns how long what is measured in it has taken.
    """
    medians = [[] for _ in ways]
    for _ in range(ROUNDS):
        turns = [[way() for way in ways] for _ in range(TURNS)]
        for rounds, of_this_way in zip(medians, zip(*turns)):
            rounds.append(statistics.median(of_this_way))
    return medians


def timed(function, *arguments):
    begin = time.perf_counter()
    result = function(*arguments)
    return time.perf_counter() - begin, result


def starts(path, before, *ways, closed=False):
    """What in_turns() has of binds, or with `closed` of binds and closes; `before` says what stands there."""

    def turn(bind, close):
        def one():
            before(path)
            bound, held = timed(bind, path)
            closing, _ = timed(close, path, *held)
            return bound + closing if closed else bound

        return one

    return in_turns(*(turn(*way) for way in ways))


def measure_starts(report, path):
    """Ratios for the chart, against the six bare calls: what was measured -> way -> ratio."""
    chart = {}
    for what, before, closed, most in (
        ("bind, nothing there", leave_nothing, False, 1.5),
        ("bind on a stale name", leave_stale, False, 4),
        ("bind and close", leave_nothing, True, 3.5),
    ):
        chart[what] = {}
        for way, calls, limit in (
            ("unixsock", OURS, most),
            ("unixsock's system calls in a row", SAME_CALLS, None),
            ("filelock, unlink, bind", FILELOCK, None),
        ):
            measured = starts(path, before, calls, BARE, closed=closed)
            chart[what][way] = report.ratio(f"{what}: {way}, against the six bare calls", *measured, most=limit)
    filelock_and_ours = starts(path, leave_nothing, FILELOCK, OURS, closed=True)
    report.ratio("bind and close: filelock, unlink, bind, against unixsock", *filelock_and_ours, least=3)
    filelock_and_calls = starts(path, leave_nothing, FILELOCK, SAME_CALLS, closed=True)
    report.ratio("bind and close: filelock, unlink, bind, against unixsock's system calls", *filelock_and_calls)
    return chart


def measure_connections(report, directory):
    def served(sock):
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(sock.getsockname())
            with sock.accept()[0] as connection:
                client.sendall(b"question")
                connection.sendall(connection.recv(64))
                client.recv(64)

    plain = unlink_and_bind(f"{directory}/plain.sock")
    sock, guard = unixsock.bind_exclusive(f"{directory}/ours.sock")
    with plain, guard:
        theirs, ours = in_turns(lambda: timed(served, plain)[0], lambda: timed(served, sock)[0])
    report.ratio("a connection served: against a plain socket's", ours, theirs, least=0.95, most=1.05)


def measure_refusal(report, directory):
    """Our lock is taken before the others: then /proc/locks has it last."""
    path = f"{directory}/taken.sock"

    def refused():
        try:
            unixsock.bind_exclusive(path)
        except unixsock.AddressInUseError:
            pass

    def read():
        with open("/proc/locks", "rb") as locks:
            locks.read()

    _, guard = unixsock.bind_exclusive(path)
    with guard:
        few = in_turns(lambda: timed(refused)[0])[0]
        report.time("being refused", few)
        others = [os.open(f"{directory}/{number}.lock", os.O_RDWR | os.O_CREAT) for number in range(OTHER_LOCKS)]
        for other in others:
            fcntl.flock(other, fcntl.LOCK_EX)
        many, reading = in_turns(lambda: timed(refused)[0], lambda: timed(read)[0])
        for other in others:
            os.close(other)
    report.time(f"being refused, {OTHER_LOCKS:,} other locks held", many, below=100)
    report.ratio("the same: against reading /proc/locks alone", many, reading, most=1.25)


def measure_many_guards(report, directory):
    """As many as the process may have descriptors for; root may have more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 2 * GUARDS + 100
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), max(hard, wanted)))
        count = GUARDS
    except (ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        count = min(GUARDS, (hard - 100) // 2)
    first, last = [], []
    for _ in range(5):
        paths = [f"{directory}/{number}.sock" for number in range(count)]
        seconds, held = zip(*(timed(unixsock.bind_exclusive, path) for path in paths))
        for _, guard in held:
            guard.close()
        first.append(statistics.median(seconds[:100]))
        last.append(statistics.median(seconds[-100:]))
    report.ratio(f"a bind beside {count - 100:,} live guards: against the first 100", last, first, most=1.5)


def measure_import(report):
    """Each time in an interpreter of its own, after one that has left the byte code."""
    program = f"""if True:
        import sys, time
        sys.path.insert(0, {os.path.dirname(os.path.dirname(unixsock.__file__))!r})
        begin = time.perf_counter()
        import socket, fcntl
        there, before = time.perf_counter() - begin, set(sys.modules)
        begin = time.perf_counter()
        import unixsock
        ours = time.perf_counter() - begin
        others = {{name for name in set(sys.modules) - before if name.partition(".")[0] != "unixsock"}}
        assert others <= {{"__future__"}}, others
        print(ours, there)
    """
    command = [sys.executable, "-I", "-c", program]
    runs = [map(float, subprocess.check_output(command).split()) for _ in range(INTERPRETERS + 1)]
    ours, theirs = zip(*runs[1:])
    report.ratio("importing it: against importing socket and fcntl", ours, theirs, most=0.15)


def measure_memory(directory):
    """Bytes of Python objects per guard, beyond those of a socket that is bound and listens."""

    def traced(bind, paths):
        gc.collect()
        tracemalloc.start()
        kept = [bind(path) for path in paths]
        size = tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
        return size / len(kept), kept

    paths = [f"{directory}/{number}.sock" for number in range(500)]
    plain, sockets = traced(unlink_and_bind, paths)
    for sock in sockets:
        sock.close()
    guarded, pairs = traced(unixsock.bind_exclusive, paths)
    for _, guard in pairs:
        guard.close()
    return guarded - plain


def draw(chart):
    mpl.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "unixsock"})  # text as text, the same file each time
    figure = Figure(figsize=(8, 3), layout="constrained")
    axes = figure.subplots()
    ways = list(next(iter(chart.values())))
    height = 0.8 / len(ways)
    for place, way in enumerate(ways):
        ratios = [of_ways[way] for of_ways in chart.values()]
        bars = axes.barh([row + place * height for row in range(len(chart))], ratios, 0.9 * height, label=way)
        axes.bar_label(bars, fmt="%.1f", padding=3)
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set_yticks([row + height for row in range(len(chart))], chart)
    axes.invert_yaxis()
    axes.set_xlabel("times as long as open, flock, unlink, socket, bind and listen")
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside upper center", ncols=len(ways), frameon=False)
    figure.savefig(CHART, metadata={"Date": None})


def main():
    python = f"{platform.python_implementation()} {platform.python_version()}"
    print(f"{platform.system()} {platform.release()}, {python}, filelock {filelock.__version__},", end=" ")
    print(f"sockets in {MEMORY or tempfile.gettempdir()}\n")
    report = Report()
    with tempfile.TemporaryDirectory(prefix="us-", dir=MEMORY) as directory:
        chart = measure_starts(report, f"{directory}/a.sock")
        measure_connections(report, directory)
        measure_refusal(report, directory)
        measure_many_guards(report, directory)
        measure_import(report)
        size = measure_memory(directory)
    print(f"\nA guard has {size:.0f} bytes of Python objects beside its socket's; the limit is 1,000.")
    draw(chart)
    return 0 if report.holds and size < 1000 else 1


if __name__ == "__main__":
    sys.exit(main())
