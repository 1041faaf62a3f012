"""How long clients are without a server when docs/examples/standby.py takes over after kill -9.

    python tests/benchmarks/take_over.py

A round is timed from the SIGKILL to the first whole answer that a client, trying every millisecond, gets from the
standby. The standby tries every 10 ms at most, so half of that is to be expected, and some for the answer.
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

import unixsock

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "support"))

from programs import EXAMPLES, Program, answer

ROUNDS = 20
WAIT = 10  # seconds


def standby(path):
    return Program([sys.executable, str(EXAMPLES / "standby.py"), path])


def take_over(path):
    """Milliseconds that one take-over lasts."""
    with standby(path) as first:
        first.line()
        with standby(path) as second:
            second.line()
            time.sleep(random.uniform(0.2, 0.3))  # its pauses have grown, and it is anywhere in one
            killed = time.perf_counter()
            os.kill(first.pid, signal.SIGKILL)
            said = None
            while said != f"Hello from pid {second.pid}\n":
                time.sleep(0.001)
                with contextlib.suppress(OSError):  # refused, or no file there, or cut off with the one that was killed
                    said = answer(path)
            return 1000 * (time.perf_counter() - killed)


def measured():
    """What the take-overs took, and what waiting costs the process that waits."""
    with tempfile.TemporaryDirectory() as directory:
        path = os.path.join(directory, "a.sock")
        times = [take_over(path) for _ in range(ROUNDS)]
        with unixsock.bind_exclusive(path)[1], contextlib.suppress(unixsock.AddressInUseError):
            begin = time.process_time()
            unixsock.bind_exclusive(path, timeout=WAIT)
        share = (time.process_time() - begin) / WAIT
    return f"median {statistics.median(times):.1f} ms, worst {max(times):.1f} ms; the wait takes {share:.1%} of a core"


if __name__ == "__main__":
    print(measured())
