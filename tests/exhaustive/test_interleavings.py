"""Starts, closes, crashes and programs without the lock meet in every order, one system call at a time.

A fault comes with the name of its schedule: ``--schedule NAME`` plays it again. ``--long`` goes deeper.
"""

import itertools
import os
import shutil
import socket
import sys
import tempfile

import pytest

from interleaving import (
    OURS,
    STARTS,
    WITHOUT_LOCK,
    Run,
    Search,
    bind_and_close,
    bind_and_stay,
    only_bind,
    remove_lock_file,
    replay,
)
from unixsock import _guard, _lock_file, _socket_file

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the two halves of bind(2) are those of Linux")


@pytest.fixture
def directory():
    """In memory where it can be, for this is about order, and there is much of it."""
    path = tempfile.mkdtemp(prefix="us-", dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else "/tmp")
    yield path
    shutil.rmtree(path)


@pytest.fixture
def search_all(directory, capsys):
    """Plays all schedules of so many actors, at least one of them ours, and fails at the first fault."""

    def search_all(number, starts, **bounds):
        schedules = 0
        for actors in itertools.combinations_with_replacement((*OURS, *WITHOUT_LOCK), number):
            if set(OURS).isdisjoint(actors):
                continue
            for start in starts:
                search = Search(directory, actors, start, **bounds).run()
                assert search.faulty is None, str(search.faulty)
                schedules += search.schedules
        with capsys.disabled():
            print(f"\n{schedules} schedules of {number} actors, no fault")
        return schedules

    return search_all


@pytest.mark.deadline(3600)
def test_two_actors_in_every_order_with_one_of_them_killed_at_any_step(search_all, long):
    assert search_all(2, STARTS, kills=2 if long else 1) >= 10_000


@pytest.mark.deadline(3600)
def test_three_actors_in_every_order_of_two_switches(search_all, long):
    assert search_all(3, STARTS if long else ["stale"], switches=3 if long else 2, kills=0) >= 10_000


@pytest.mark.deadline(3600)
def test_three_actors_one_after_the_other_with_one_of_them_killed_at_any_step(search_all, long):
    assert search_all(3, STARTS if long else ["stale"], switches=1 if long else 0, kills=1) >= 1_000


def test_the_schedule_that_was_asked_for(directory, request, capsys):
    name = request.config.getoption("--schedule")
    if name is None:
        pytest.skip("no --schedule NAME")
    run = replay(directory, name)
    with capsys.disabled():
        print(f"\n{run}")
    assert run.place.faults == []


# Limits: between the last look at a dead name and unlink(2) there is a moment, of which those without the lock can
# make use. For each, its schedule, and that nothing else can happen between the same actors.


def the_one_limit(directory, schedule):
    run = replay(directory, schedule)
    actors = [actor.does for actor in run.actors]
    assert Search(directory, actors, run.start, switches=2, kills=0).run().limits == {run.place.limit: schedule}
    return run.place.limit, [actor.name for actor in run.actors if actor.guard]


def test_a_server_that_unlinks_and_binds_just_before_a_start_unlinks_is_lost(directory):
    limit, bound = the_one_limit(directory, "bind_and_stay+unlink_and_bind@stale:0x9,1x4,0x3")
    assert limit == "bind_and_stay unlinked the live socket of unlink_and_bind"
    assert bound == ["bind_and_stay"]


def test_a_server_that_unlinks_and_binds_just_before_a_close_unlinks_is_lost(directory):
    limit, _ = the_one_limit(directory, "bind_and_close+unlink_and_bind@free:0x19,1x4,0x2")
    assert limit == "bind_and_close unlinked the live socket of unlink_and_bind"


def test_two_starts_own_the_name_when_the_lock_file_is_removed_just_before_one_unlinks(directory):
    limit, bound = the_one_limit(directory, "bind_and_stay+bind_and_stay+remove_lock_file@stale:0x9,2x1,1x13,0x3")
    assert limit == "bind_and_stay unlinked the live socket of bind_and_stay"
    assert bound == ["bind_and_stay", "bind_and_stay"]


def test_a_start_is_lost_when_the_lock_file_is_removed_just_before_a_close_unlinks(directory):
    limit, _ = the_one_limit(directory, "bind_and_close+bind_and_stay+remove_lock_file@free:0x19,2x1,1x13,0x2")
    assert limit == "bind_and_close unlinked the live socket of bind_and_stay"


# The search can fail: the package with one decision taken out, and actors that suffer from it.


def inodes_not_compared_after_flock(patch):
    locked = _lock_file._lock_current_file
    patch.setattr(_lock_file, "_lock_current_file", lambda *args: locked(*args) or True)


def stale_cleared_without_a_look(patch):
    patch.setattr(_socket_file, "_probe", lambda _: None)


def asked_as_a_client(patch):
    connect = _socket_file._connect_errno
    patch.setattr(_socket_file, "_connect_errno", lambda path, _: connect(path, socket.SOCK_STREAM))


def asked_without_waiting_for_a_bind_that_is_half_done(patch):
    hook = Run.hook
    patch.setattr(Run, "hook", lambda run, call: None if call.name == "os.rename" else hook(run, call))


def name_cleared_at_close_without_the_lock(patch):
    def claim(path, *, create):
        _socket_file.clear_stale(path)
        return os.open(os.devnull, os.O_RDONLY)

    patch.setattr(_guard, "claim", claim)


def lock_file_unlinked_at_close(patch):
    def claim(path, *, create):
        _guard.os.unlink(path + ".lock")
        return original(path, create=True)

    original = _guard.claim
    patch.setattr(_guard, "claim", claim)


@pytest.mark.parametrize(
    ("broken", "actors"),
    [
        (inodes_not_compared_after_flock, [bind_and_stay, bind_and_stay, remove_lock_file]),
        (stale_cleared_without_a_look, [bind_and_stay, only_bind]),
        (asked_as_a_client, [bind_and_stay, only_bind]),
        (asked_without_waiting_for_a_bind_that_is_half_done, [bind_and_stay, only_bind]),
        (name_cleared_at_close_without_the_lock, [bind_and_close, bind_and_stay]),
        (lock_file_unlinked_at_close, [bind_and_close, bind_and_stay]),
    ],
)
def test_a_broken_package_is_found_out_and_by_the_name_of_the_schedule_again(directory, monkeypatch, broken, actors):
    broken(monkeypatch)
    switches = 2 if len(actors) == 3 else None
    searches = [Search(directory, actors, start, switches=switches, kills=0).run() for start in STARTS]
    found = [search.faulty for search in searches if search.faulty]
    assert found
    assert "unlinked the live socket of" in str(found[0])
    assert str(replay(directory, found[0].name)) == str(found[0])
