"""Many starters, many turns, many kills: never two owners at once, and no request answered by anyone else."""

import os
import random
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

import unixsock
from children import PATIENCE, Child
from observed import reaches, start_and_close

SEED = int(os.environ.get("UNIXSOCK_SEED") or random.randrange(10**6))

TRY_TO_BIND = """
try:
    sock, guard = unixsock.bind_exclusive(path)
    _ = "won"
except unixsock.AddressInUseError as error:
    _ = error.owner_pid
"""

# An owner serves one client, who always asks: a connection without a question came from a probe. It goes on
# owning until that client has hung up. Who is refused tries anew at once: with waiters, which sleep, the path would
# hardly change hands. Nor would it on a busy machine without the yield: the last owner would be the next one.
SERVE_IN_TURNS = """
turn = 0
with open(ledger, "ab", buffering=0) as lines:
    while not os.path.exists(end):
        os.sched_yield()
        try:
            sock, guard = unixsock.bind_exclusive(path)
        except unixsock.AddressInUseError:
            continue
        turn += 1
        me = f"{os.getpid()} {turn}".encode()
        lines.write(b"took %s\\n" % me)
        with guard:
            sock.settimeout(patience)
            served, _ = sock.accept()
            with served:
                served.settimeout(patience)
                assert served.recv(1) == b"?", "connected, and asked nothing"
                served.sendall(me)
                assert served.recv(1) == b"", "asked twice"
            lines.write(b"gave %s\\n" % me)
"""


class Crew:
    """Processes forked from one that holds nothing. It never reaps them, so that no pid comes twice."""

    def __init__(self, size):
        self._seed = Child()
        self.members = [self._seed.fork() for _ in range(size)]

    def __enter__(self):
        return self

    def __exit__(self, *exc_info):
        for child in (*self.members, self._seed):
            child.__exit__(*exc_info)

    def replace(self, member):
        """SIGKILL `member`; the new one in its place."""
        with member:
            member.kill()
        new = self._seed.fork()
        self.members[self.members.index(member)] = new
        return new


def test_of_eight_processes_that_start_at_once_on_a_stale_socket_file_one_wins(path, capsys):
    rounds = 60
    with Crew(8) as crew:
        crew.members[0].do(TRY_TO_BIND, path=path)
        crew.replace(crew.members[0])
        for _ in range(rounds):
            assert os.path.exists(path)
            for starter in crew.members:
                starter.start(TRY_TO_BIND, path=path)
            outcomes = [starter.answer() for starter in crew.members]
            assert outcomes.count("won") == 1
            winner = crew.members[outcomes.index("won")]
            assert set(outcomes) <= {"won", winner.pid, None}
            assert reaches(path, winner)
            crew.replace(winner)
    with capsys.disabled():
        print(f"\n{rounds} rounds of 8 starters, one winner each")


@pytest.mark.deadline(300)
@pytest.mark.parametrize("deadliness", [0, 0.02], ids=["", "while processes are killed"])
def test_each_request_is_answered_by_the_owner_of_that_moment(path, long, capsys, deadliness):
    wanted = 1250 if long else 250
    with capsys.disabled():
        print(f"\nUNIXSOCK_SEED={SEED}")
    turns, changes, kills = storm(path, wanted, deadliness)
    with capsys.disabled():
        print(f"{turns} turns of 6 processes, {changes} changes of owner, {kills} kills, no violation")
    assert changes >= wanted
    assert bool(kills) == bool(deadliness)


def storm(path, wanted, deadliness):
    """Let six processes own `path` in turns until a client has met `wanted` changes of owner, or has waited too long.

    Return the turns, changes of owner and kills, counted.

    Whoever does something writes it into the ledger, a line each, and O_APPEND keeps the lines in their order. So who
    owned when is read off afterwards: without a clock, and without a second lock, which the kernel might take from a
    killed owner later than it takes the first.
    """
    ledger = path + ".ledger"
    end = path + ".end"
    too_late = time.monotonic() + 10 * PATIENCE
    changes, owner = -1, None
    chance = random.Random(SEED)

    def put_to_work(member):
        member.start(SERVE_IN_TURNS, path=path, ledger=ledger, end=end, patience=PATIENCE)

    with Crew(6) as crew, open(ledger, "ab", buffering=0) as lines:

        def perhaps_kill():
            if chance.random() < deadliness:
                victim = chance.choice(crew.members)
                lines.write(b"killing %d\n" % victim.pid)
                put_to_work(crew.replace(victim))

        for member in crew.members:
            put_to_work(member)
        while any(member.still_busy() for member in crew.members):
            if changes >= wanted or time.monotonic() > too_late:
                open(end, "w").close()
            with socket.socket(socket.AF_UNIX) as client:
                client.settimeout(PATIENCE)
                try:
                    client.connect(path)
                    perhaps_kill()
                    client.sendall(b"?")
                    answer = client.recv(64)
                except (FileNotFoundError, ConnectionError):
                    continue  # nobody's turn, or it ended before ours in the backlog
                if answer:
                    lines.write(b"answered %s\n" % answer)
                    previous, owner = owner, answer.split()[0]
                    changes += owner != previous
                    perhaps_kill()
        for member in crew.members:
            member.answer()
    with open(ledger) as file:
        events = file.read().splitlines()
    assert violations(events) == []
    start_and_close(path)
    turns, kills = (sum(event.startswith(what) for event in events) for what in ("took", "killing"))
    return turns, changes, kills


def violations(events):
    """Each event that cannot be where one owner at a time answers alone and once, with the nine before it."""
    found = []
    owner, has_answered, doomed = None, False, set()
    for number, event in enumerate(events):
        what, pid, *turn = event.split()
        who = (pid, *turn)
        if what == "killing":
            doomed.add(pid)
            possible = True
        elif what == "took":
            # The one before gave it back, or was killed: what is written before the kill is before the next turn.
            possible = owner is None or owner[0] in doomed
            owner, has_answered = who, False
        elif what == "answered":
            # The client writes this, perhaps after the owner that answered was killed and had a successor.
            possible = (owner == who and not has_answered) or (owner != who and pid in doomed)
            has_answered = has_answered or owner == who
        else:
            possible = owner == who and has_answered
            owner = None
        if not possible:
            found.append(events[max(0, number - 9) : number + 1])
    return found


LEDGERS = {
    "took 1 1, took 2 1": False,
    "took 1 1, took 2 1, killing 1": False,
    "took 1 1, answered 2 1": False,
    "took 1 1, answered 1 1, gave 1 1, answered 1 1": False,
    "took 1 1, answered 1 1, answered 1 1": False,
    "took 1 1, gave 1 1": False,
    "took 1 1, killing 1, took 2 1, gave 1 1": False,
    "took 1 1, killing 1, took 2 1, answered 2 1, gave 2 1": True,
    "took 1 1, killing 1, took 2 1, answered 1 1, answered 2 1, gave 2 1": True,
}


@pytest.mark.parametrize("ledger", LEDGERS)
def test_the_ledger_gives_wrong_answers_away_and_forgives_the_killed_what_they_could_not_write(ledger):
    assert (violations(ledger.split(", ")) == []) == LEDGERS[ledger]


def test_of_forty_threads_of_one_process_one_owns_at_a_time(path):
    together = threading.Barrier(40, timeout=PATIENCE)
    owners, refusals = [], []

    def start(me):
        for _ in range(36):
            together.wait()
            try:
                sock, guard = unixsock.bind_exclusive(path)
            except unixsock.AddressInUseError as error:
                refusals.append(error.owner_pid)
                continue
            with guard:
                owners.append(me)
                assert reaches(path, sock)
                assert owners.pop() == me
                assert owners == []

    with ThreadPoolExecutor(40) as pool:
        assert list(pool.map(start, range(40))) == [None] * 40
    assert refusals
    assert set(refusals) <= {os.getpid(), None}
