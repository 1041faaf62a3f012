"""What a crash left behind is cleared by the next start; what somebody bound meanwhile is not."""

import os
import socket

import pytest

import unixsock
from children import Child
from observed import BIND, BOUND, TYPES, assert_serves, each_type, leave_stale, reaches, refused, start_and_close
from system_calls import before


@each_type
@pytest.mark.parametrize("left", TYPES)
def test_a_stale_name_of_each_type_is_cleared_by_each_type(path, left, kind):
    leave_stale(path, left)
    sock, guard = unixsock.bind_exclusive(path, type=kind)
    with guard:
        assert_serves(sock, kind, path)
    assert not os.path.exists(path)


def test_a_killed_owner_leaves_a_name_that_is_cleared_and_a_lock_file_that_is_used_again(path):
    with Child() as owner:
        owner.do(BIND, path=path)
        owner.kill()
    assert os.path.exists(path)
    lock_file = os.stat(path + ".lock")
    with unixsock.bind_exclusive(path)[1]:
        assert os.stat(path + ".lock") == lock_file


@each_type
def test_a_name_left_by_a_killed_owner_is_cleared_also_without_its_lock_file(path, kind):
    with Child() as owner:
        owner.do("sock, guard = unixsock.bind_exclusive(path, type=kind)", path=path, kind=kind)
        owner.kill()
    os.unlink(path + ".lock")
    start_and_close(path)


def test_a_name_left_by_asyncio_is_cleared(path):
    with Child() as server:
        server.do(
            "import asyncio\n"
            "loop = asyncio.new_event_loop()\n"
            "server = loop.run_until_complete(asyncio.start_unix_server(print, path))",
            path=path,
        )
        server.kill()
    assert os.path.exists(path)
    start_and_close(path)


@each_type
def test_who_binds_without_the_lock_right_after_the_clearing_keeps_the_name(path, kind):
    leave_stale(path)
    with socket.socket(socket.AF_UNIX) as stranger:
        with before("socket.bind", lambda _: stranger.bind(path)):
            refused(path, BOUND, type=kind)
        stranger.listen()
        assert reaches(path, stranger)
    start_and_close(path)
