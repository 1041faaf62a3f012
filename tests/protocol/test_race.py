"""Many at one moment on a stale name: one of them gets it, a client reaches that one, and the others are told."""

import contextlib
import os
import socket
import threading
from concurrent.futures import ThreadPoolExecutor

import unixsock
from children import Child

ROUNDS = 50


def leave_stale(path):
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(path)


def test_of_twelve_threads_one_wins_each_round(path):
    starters = 12
    gate = threading.Barrier(starters)

    def start(_):
        gate.wait()
        try:
            return unixsock.bind_exclusive(path)
        except unixsock.AddressInUseError as refused:
            return refused

    with ThreadPoolExecutor(starters) as threads:
        for _ in range(ROUNDS):
            leave_stale(path)
            outcomes = list(threads.map(start, range(starters)))
            [(sock, guard)] = [outcome for outcome in outcomes if isinstance(outcome, tuple)]
            with guard, socket.socket(socket.AF_UNIX) as client:
                client.connect(path)
                sock.settimeout(0)
                sock.accept()[0].close()
            assert not os.path.exists(path)


def test_of_eight_processes_one_wins_each_round(path):
    with contextlib.ExitStack() as ending:
        porter = ending.enter_context(Child())
        porter.do("gate = os.pipe()")
        starters = [ending.enter_context(porter.fork()) for _ in range(8)]
        for _ in range(ROUNDS):
            leave_stale(path)
            for starter in starters:
                starter.start(
                    "os.read(gate[0], 1)\n"
                    "try: sock, guard = unixsock.bind_exclusive(path)\n"
                    "except unixsock.AddressInUseError: guard = None\n"
                    "_ = guard is not None",
                    path=path,
                )
            porter.do("os.write(gate[1], bytes(count))", count=len(starters))
            won = [starter.answer() for starter in starters]
            [winner] = [starter for starter, wins in zip(starters, won) if wins]
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(path)
                winner.do("with sock.accept()[0] as served: served.sendall(b'winner')")
                assert client.recv(16) == b"winner"
            winner.do("guard.close()")
            assert not os.path.exists(path)
