"""Owners that bind and close, crashes and programs without the lock meet in every order, one system call at a time.

A fault comes with the name of its schedule: ``--schedule NAME`` plays it again. ``--long`` goes deeper.
"""

import itertools
import os
import shutil
import tempfile

import pytest

from interleaving import OURS, STARTS, WITHOUT_LOCK, Search, actors_of, replay
from observed import on_linux
from variants import broken

pytestmark = on_linux  # its bind(2) has the two halves that only_bind makes


@pytest.fixture
def directory():
    """In memory where it can be, for this is about order, and there is much of it."""
    path = tempfile.mkdtemp(prefix="us-", dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else "/tmp")
    yield path
    shutil.rmtree(path)


ALL = (*OURS, *WITHOUT_LOCK)
PAIRS, TRIPLES = [list(itertools.combinations_with_replacement(ALL, number)) for number in (2, 3)]


@pytest.fixture
def search_all(directory, capsys):
    """Plays all schedules of each of these groups of actors, if one of them is ours, and fails at the first fault."""

    def search_all(groups, starts, **bounds):
        schedules = 0
        for actors, start in itertools.product(groups, starts):
            if not set(OURS).isdisjoint(actors):
                search = Search(directory, actors, start, **bounds).run()
                assert search.faulty is None, str(search.faulty)
                schedules += search.schedules
        with capsys.disabled():
            print(f"\n{schedules} schedules of {len(actors)} actors, no fault")
        return schedules

    return search_all


@pytest.mark.deadline(3600)
def test_two_actors_in_every_order(search_all):
    assert search_all(PAIRS, STARTS, kills=0) >= 4_000


@pytest.mark.deadline(3600)
def test_two_actors_in_every_order_with_one_of_them_killed_at_any_step(search_all, long):
    assert search_all(PAIRS, STARTS if long else ["stale"], kills=2 if long else 1) >= (20_000 if long else 4_000)


@pytest.mark.deadline(3600)
def test_three_actors_in_every_order_of_two_switches(search_all, long):
    different = list(itertools.combinations(ALL, 3))
    starts = STARTS if long else ["stale"]
    schedules = search_all(TRIPLES if long else different, starts, switches=3 if long else 2, kills=0)
    assert schedules >= (100_000 if long else 5_000)


@pytest.mark.deadline(3600)
def test_three_actors_one_after_the_other_with_one_of_them_killed_at_any_step(search_all, long):
    schedules = search_all(TRIPLES, STARTS if long else ["stale"], switches=1 if long else 0, kills=1)
    assert schedules >= (40_000 if long else 1_000)


def test_the_schedule_that_was_asked_for(directory, request, capsys):
    name = request.config.getoption("--schedule")
    if name is None:
        pytest.skip("no --schedule NAME")
    run = replay(directory, name)
    with capsys.disabled():
        print(f"\n{run}")
    assert run.place.faults == []


LAST_LOOK = "os.lstat"
CLOSES = ("socket.close", "os.close")

# Between the last call that sees a stale socket file and unlink(2) there is a moment, of which those without the lock
# can make use. For each story, who is there, and what stands there: the first one's unlink(2) takes the path from the
# second.
STORIES = {
    "a server unlinks and binds just before bind_exclusive unlinks": ("bind_and_stay+unlink_and_bind", "stale"),
    "a server unlinks and binds just before close unlinks": ("bind_and_close+unlink_and_bind", "free"),
    "the lock file is removed, and a second owner binds, just before bind_exclusive unlinks": (
        "bind_and_stay+bind_and_stay+remove_lock_file",
        "stale",
    ),
    "the lock file is removed, and a second owner binds, just before close unlinks": (
        "bind_and_close+bind_and_stay+remove_lock_file",
        "free",
    ),
}


@pytest.mark.parametrize("story", STORIES)
def test_what_can_be_lost_in_the_moment_before_an_unlink_and_that_nothing_else_can(directory, story):
    actors, start = STORIES[story]
    first, second, *_ = actors.split("+")
    limit = f"{first} unlinked the live socket of {second}"
    limits = Search(directory, actors_of(actors), start, switches=2, kills=0).run().limits
    assert limits.keys() == {limit}
    run = replay(directory, limits[limit])
    calls = [(actor, call.name) for actor, call, _ in run.story if actor.ours and call.name not in CLOSES]
    last = max(number for number, (_, name) in enumerate(calls) if name == "os.unlink")
    *_, last_look = [name for actor, name in calls[:last] if actor is calls[last][0]]
    assert last_look == LAST_LOOK


# The search can fail: a variant of the package, and actors that suffer from it.
SUFFER = {
    "no comparison of inodes after flock": "bind_and_stay+bind_and_stay+remove_lock_file",
    "stale cleared without asking whether it is live": "bind_and_stay+only_bind",
    "asking with a stream connect only": "bind_and_stay+only_bind",
    "no wait for a bind that is half done": "bind_and_stay+only_bind",
    "the path cleared at close without the lock": "bind_and_close+bind_and_stay",
    "the lock file unlinked at close": "bind_and_close+bind_and_stay",
}


@pytest.mark.parametrize("variant", SUFFER)
def test_a_broken_variant_is_found_out_and_by_the_name_of_the_schedule_again(directory, variant):
    actors = actors_of(SUFFER[variant])
    switches = 2 if len(actors) == 3 else None
    with broken(variant):
        searches = [Search(directory, actors, start, switches=switches, kills=0).run() for start in STARTS]
        found = [search.faulty for search in searches if search.faulty]
        assert found
        assert "unlinked the live socket of" in str(found[0])
        assert str(replay(directory, found[0].name)) == str(found[0])
