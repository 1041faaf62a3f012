"""How long clients are without a server when docs/examples/standby.py takes over after kill -9, in 20 rounds.

    PYTHONPATH=src python tests/benchmarks/take_over.py

A round is timed from the SIGKILL to the first whole answer that a client, trying every millisecond, gets from the
standby. The standby tries every 50 ms at the most, so half of that is to be expected, and some for the answer.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import statistics
import sys
import tempfile
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "support"))

from programs import EXAMPLES, Program, answer

ROUNDS = 20


def standby(path):
    return Program([sys.executable, str(EXAMPLES / "standby.py"), path])


def until_served_by(path, pid):
    said = None
    while said != f"Hello from pid {pid}\n":
        time.sleep(0.001)
        with contextlib.suppress(OSError):  # refused, or no file there, or cut off with the one that was killed
            said = answer(path)


def take_over(path):
    """Seconds that one take-over lasts."""
    with standby(path) as first:
        first.line()
        with standby(path) as second:
            second.line()
            time.sleep(random.uniform(0.2, 0.3))  # its pauses have grown to 50 ms, and it is anywhere in one
            killed = time.perf_counter()
            os.kill(first.pid, signal.SIGKILL)
            until_served_by(path, second.pid)
            return time.perf_counter() - killed


def main():
    with tempfile.TemporaryDirectory() as directory:
        path = os.path.join(directory, "a.sock")
        times = [1000 * take_over(path) for _ in range(ROUNDS)]
    print(f"{ROUNDS} rounds: median {statistics.median(times):.1f} ms, worst {max(times):.1f} ms")


if __name__ == "__main__":
    main()
