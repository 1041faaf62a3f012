"""The newcomer that replaces the owner, as recipes.md has it: the owner leaves, or keeps the path."""

import os
import socket

import pytest

import unixsock
from children import PATIENCE, Child
from markdown import block, read
from observed import full_queue, on_linux

CODE = block(read("docs/recipes.md"), "def bind_or_replace")
BIND = f"{CODE}\nsock, guard = bind_or_replace(path)"
# Serves until it is asked to leave.
SERVE = """
while not guard.closed:
    with sock.accept()[0] as client, client.makefile("rwb") as lines:
        if lines.readline() == b"leave\\n":
            sock.close()
            guard.close()
        else:
            lines.write(b"%d\\n" % os.getpid())
"""


def asked(path):
    """The pid of who serves at `path`."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(PATIENCE)
        client.connect(path)
        client.sendall(b"who\n")
        with client.makefile("rb") as lines:
            return int(lines.readline())


def bind_or_replace(path, timeout):
    names = {}
    exec(CODE, names)
    return names["bind_or_replace"](path, timeout)


def test_each_newcomer_replaces_the_one_that_runs(path):
    with Child() as first, Child() as second, Child() as third:
        for newcomer in (first, second, third):
            newcomer.do(BIND, path=path)
            newcomer.start(SERVE)
            assert asked(path) == newcomer.pid
        for old in (first, second):
            old.answer()
            assert old.value("guard.closed")


def test_a_newcomer_that_meets_a_killed_owner_binds(path):
    with Child() as first, Child() as second:
        first.do(BIND, path=path)
        first.kill()
        second.do(BIND, path=path)


def test_an_owner_that_does_not_leave_keeps_the_path(path):
    with unixsock.bind_exclusive(path)[1], pytest.raises(unixsock.AddressInUseError) as refusal:
        bind_or_replace(path, 0.05)
    assert refusal.value.filename == path


@on_linux  # where a full queue is EAGAIN
def test_an_owner_whose_queue_is_full_keeps_the_path_and_a_newcomer_does_not_wait_for_room(path):
    with (
        unixsock.bind_exclusive(path, backlog=0)[1],
        full_queue(path),
        pytest.raises(unixsock.AddressInUseError) as refusal,
    ):
        bind_or_replace(path, 0.05)
    assert refusal.value.filename == path


def test_a_newcomer_that_asks_and_then_fails_leaves_nobody(path):
    with Child() as first, Child() as second:
        first.do(BIND, path=path)
        first.start(SERVE)
        second.do(BIND, path=path)
        first.answer()
        second.kill()
        with socket.socket(socket.AF_UNIX) as client, pytest.raises(ConnectionRefusedError):
            client.connect(path)
    assert os.path.exists(path)
