"""What unixsock costs: the tables under "The price" in docs/comparison.md, and docs/cost.svg.

    python -m pip install --group benchmark --editable .
    python tests/benchmarks/bench.py

Ways that are compared take turns, call by call, so that a busy machine slows down all of them. The exit status is 1
when a ratio is beyond its limit. Times are shown, and have no limit.
"""

from __future__ import annotations

import _socket
import contextlib
import fcntl
import os
import platform
import random
import resource
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import filelock
import matplotlib as mpl
from matplotlib.figure import Figure

import unixsock

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

from programs import EXAMPLES, Program, answer

ROUNDS = 15  # each gives a ratio, and their median counts
TURNS = 300  # in a round
GUARDS = 10_000
INTERPRETERS = 20
TAKE_OVERS = 20
WAIT = 10  # seconds

CHART = Path(__file__).parents[2] / "docs" / "cost.svg"
# In memory, as /run is: on a disk, the disk is what is measured.
MEMORY = "/dev/shm" if os.path.isdir("/dev/shm") else None

beyond = []  # the limits that do not hold


def limited(what, ratio, least=0.0, most=float("inf")):
    if not least <= ratio <= most:
        beyond.append(f"{what}: {ratio:.2f}, and the limits are {least} and {most}")
    return ratio


# The ways to start. Each returns a listening socket, and what its second half needs to give the address up.


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
    os.fstat(lock)  # io.FileIO's own
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.lstat(path + ".lock")
    try:
        os.lstat(path)
        os.rename(path, path)
        probe = _socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        probe.settimeout(0)
        probe.connect_ex(path)
        probe.close()
        probe = _socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        probe.settimeout(0)
        probe.connect_ex(path)
        probe.close()
        os.lstat(path)
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


WAYS = {
    "unixsock": (unixsock.bind_exclusive, close_with_unixsock),
    "its system calls alone": (same_calls, close_same_calls),
    "filelock, unlink, bind": (with_filelock, close_with_filelock),
    "baseline": (six_calls, close_six_calls),
}
*COMPARED, BASELINE = WAYS


def leave_nothing(path):
    """What stands at the path before a start."""


def leave_stale(path):
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(path)


def timed(function, *arguments):
    begin = time.perf_counter()
    result = function(*arguments)
    return time.perf_counter() - begin, result


def in_turns(*ways):
    """For each way its seconds, the median of each round. A way returns how long what is measured in it has taken."""
    medians = [[] for _ in ways]
    for _ in range(ROUNDS):
        seconds = [[] for _ in ways]
        for _ in range(TURNS):
            for way in random.sample(range(len(ways)), len(ways)):
                seconds[way].append(ways[way]())
        for rounds, of_this_way in zip(medians, seconds):
            rounds.append(statistics.median(of_this_way))
    return medians


def ratio_of(these, those):
    return statistics.median(this / that for this, that in zip(these, those))


def micros(seconds):
    return f"{1e6 * statistics.median(seconds):.0f} µs"


def measure_starts(path):
    """Print a row for each situation. Returns the ratios to the baseline, for each of the other ways."""

    def turn(before, bind, close, *, closed):
        before(path)
        bound, held = timed(bind, path)
        closing, _ = timed(close, path, *held)
        return bound + closing if closed else bound

    open(path + ".lock", "x").close()  # it exists already when a server starts again
    chart = {}
    print("| |", " | ".join(COMPARED), "|\n| --- | --- | --- | --- |")
    for what, before, closed, most in (
        ("starting", leave_nothing, False, 1.7),
        ("after a crash", leave_stale, False, 4),
        ("starting and closing", leave_nothing, True, 3.5),
    ):
        unixsocks, calls, filelocks, baseline = (
            lambda way=way: turn(before, *way, closed=closed)  # noqa: B023 - called in this round
            for way in WAYS.values()
        )
        these = in_turns(unixsocks, calls, baseline)
        # Apart, since filelock leaves cold caches to what comes next.
        those = in_turns(filelocks, unixsocks, baseline)
        limited(f"{what}, against the baseline", ratio_of(these[0], these[2]), most=most)
        limited(f"{what}, against its system calls", ratio_of(these[0], these[1]), most=1.6)
        limited(f"{what}, filelock against unixsock", ratio_of(those[0], those[1]), least=2)
        pairs = [(these[0], these[2]), (these[1], these[2]), (those[0], those[2])]
        chart[what] = [ratio_of(*pair) for pair in pairs]
        cells = [f"{ratio:.1f} ({micros(pair[0])})" for ratio, pair in zip(chart[what], pairs)]
        print(f"| {what} |", " | ".join(cells), "|", flush=True)
    return chart


def refusal(directory):
    path = f"{directory}/taken.sock"

    def refused():
        try:
            unixsock.bind_exclusive(path)
        except unixsock.AddressInUseError:
            pass

    _, guard = unixsock.bind_exclusive(path)
    with guard:
        return micros(in_turns(lambda: timed(refused)[0])[0])


def connection(directory):
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
    ratio = limited("a connection", ratio_of(ours, theirs), least=0.95, most=1.05)
    return f"{micros(ours)}, {ratio:.2f} times a plain socket's"


def many_guards(directory):
    """As many as the process may have descriptors for."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    count = min(GUARDS, (hard - 100) // 2)
    first, last = [], []
    for _ in range(5):
        seconds, held = zip(*(timed(unixsock.bind_exclusive, f"{directory}/{number}.sock") for number in range(count)))
        for _, guard in held:
            guard.close()
        first.append(statistics.median(seconds[:100]))
        last.append(statistics.median(seconds[-100:]))
    ratio = limited("a start beside many guards", ratio_of(last, first), most=1.5)
    return f"{ratio:.2f} times the first of {count:,}"


def imports():
    """Each time in an interpreter of its own, after one that has left the byte code."""

    def seconds(package):
        program = f"import time; begin = time.process_time(); import {package}; print(time.process_time() - begin)"
        return float(subprocess.check_output([sys.executable, "-c", program]))

    pairs = [(seconds("unixsock"), seconds("filelock")) for _ in range(INTERPRETERS + 1)]
    ours, theirs = (1000 * statistics.median(of_one) for of_one in zip(*pairs[1:]))
    return f"{ours:.1f} ms; filelock: {theirs:.1f} ms"


def take_over(path):
    """From a SIGKILL to the first whole answer of docs/examples/standby.py, which a client tries to get every ms."""

    def standby():
        return Program([sys.executable, str(EXAMPLES / "standby.py"), path])

    def without_server():
        with standby() as first:
            first.line()
            with standby() as second:
                second.line()
                time.sleep(random.uniform(0.2, 0.3))  # its pauses have grown, and it is anywhere in one
                begin = time.perf_counter()
                os.kill(first.pid, signal.SIGKILL)
                said = None
                while said != f"Hello from pid {second.pid}\n":
                    time.sleep(0.001)
                    with contextlib.suppress(OSError):  # refused, or no file, or cut off with the first
                        said = answer(path)
                return 1000 * (time.perf_counter() - begin)

    times = [without_server() for _ in range(TAKE_OVERS)]
    with unixsock.bind_exclusive(path)[1], contextlib.suppress(unixsock.AddressInUseError):
        begin = time.process_time()
        unixsock.bind_exclusive(path, timeout=WAIT)
    share = (time.process_time() - begin) / WAIT
    return f"median {statistics.median(times):.1f} ms, worst {max(times):.1f} ms; the wait takes {share:.1%} of a core"


def draw(chart):
    mpl.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "unixsock"})  # text as text, the same file each time
    figure = Figure(figsize=(8, 3.4), layout="constrained")
    axes = figure.subplots()
    height = 0.8 / len(COMPARED)
    for place, (way, ratios) in enumerate(zip(COMPARED, zip(*chart.values()))):
        bars = axes.barh([row + place * height for row in range(len(chart))], ratios, 0.9 * height, label=way)
        axes.bar_label(bars, fmt="%.1f", padding=3)
    axes.axvline(1, color="black", linewidth=0.8, label=f"1: {BASELINE}")
    axes.set_yticks([row + height for row in range(len(chart))], chart)
    axes.invert_yaxis()
    axes.set_xlabel(f"time, in multiples of the {BASELINE}")
    axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle("What starting and closing cost: less is better")
    figure.legend(loc="outside lower center", ncols=len(WAYS), frameon=False)
    figure.savefig(CHART, metadata={"Date": None})


def main():
    python = f"{platform.python_implementation()} {platform.python_version()}"
    print(f"{platform.system()} {platform.release()}, {python}, filelock {filelock.__version__}, load", end=" ")
    print(f"{os.getloadavg()[0]:.1f}, sockets in {MEMORY or tempfile.gettempdir()}\n")
    with tempfile.TemporaryDirectory(prefix="us-", dir=MEMORY) as directory:
        draw(measure_starts(f"{directory}/a.sock"))
        print("\n| | |\n| --- | --- |")
        print("| a refusal |", refusal(directory), "|")
        print("| a connection served |", connection(directory), "|")
        print("| a start beside many live guards |", many_guards(directory), "|")
        print("| `import unixsock` |", imports(), "|")
        print("| take-over by a standby after `kill -9` |", take_over(f"{directory}/a.sock"), "|")
    print(*beyond, sep="\n")
    return len(beyond)


if __name__ == "__main__":
    sys.exit(main())
