"""What a crash left behind is cleared by the next owner; what somebody bound meanwhile is not."""

import os
import socket
import types

import pytest

import unixsock
from children import Child
from observed import BIND, BOUND, TYPES, assert_serves, each_type, expect_refusal, leave_stale, reaches, start_and_close
from system_calls import after, before, instead


@each_type
@pytest.mark.parametrize("left", TYPES)
def test_a_stale_socket_file_of_each_type_is_cleared_by_each_type(path, left, kind):
    leave_stale(path, left)
    sock, guard = unixsock.bind_exclusive(path, type=kind)
    with guard:
        assert_serves(sock, kind, path)
    assert not os.path.exists(path)


def test_a_killed_owner_leaves_a_socket_file_that_is_cleared_and_a_lock_file_that_is_used_again(path):
    with Child() as owner:
        owner.do(BIND, path=path)
        owner.kill()
    assert os.path.exists(path)
    lock_file = os.stat(path + ".lock")
    with unixsock.bind_exclusive(path)[1]:
        assert os.stat(path + ".lock") == lock_file


@each_type
def test_who_binds_without_the_lock_right_after_the_clearing_keeps_the_path(path, kind):
    leave_stale(path)
    with socket.socket(socket.AF_UNIX) as other:
        with before("socket.bind", lambda _: other.bind(path)):
            expect_refusal(path, BOUND, type=kind)
        other.listen()
        assert reaches(path, other)
    start_and_close(path)


def after_the_probe(does):
    """Let `does()` happen once the second probe has been answered."""
    return after("socket.connect_ex", lambda call: call.args[0].type == socket.SOCK_STREAM and does())


def test_a_file_that_was_renamed_over_a_stale_socket_file_is_kept(directory, path):
    def save():
        (directory / "new").write_text("precious")
        os.rename(directory / "new", path)

    leave_stale(path)
    with after_the_probe(save), pytest.raises(FileExistsError, match="a regular file"):
        unixsock.bind_exclusive(path)
    with open(path) as file:
        assert file.read() == "precious"


def test_a_server_that_bound_over_a_stale_socket_file_keeps_its_path(path):
    def bind():
        os.unlink(path)
        server.bind(path)
        server.listen()

    leave_stale(path)
    with socket.socket(socket.AF_UNIX) as server:
        with after_the_probe(bind):
            expect_refusal(path, BOUND)
        assert reaches(path, server)


def test_the_inode_number_alone_does_not_make_it_the_same_socket_file(path):
    # A filesystem may give the number of an unlinked file to the next one, as ext4 does: chmod changes the time alone.
    def touch():
        changed = os.lstat(path).st_ctime_ns
        while os.lstat(path).st_ctime_ns == changed:
            os.chmod(path, 0o700)

    leave_stale(path)
    with after_the_probe(touch):
        expect_refusal(path, BOUND)
    start_and_close(path)


def test_an_earlier_time_does_not_make_it_the_same_socket_file_either(path):
    def earlier(call):  # as after a clock was set back
        now = call.run()
        here = {name: getattr(now, name) for name in ("st_mode", "st_dev", "st_ino")}
        return types.SimpleNamespace(**here, st_ctime_ns=now.st_ctime_ns - 1) if probed else now

    probed = []
    leave_stale(path)
    with after_the_probe(lambda: probed.append(True)), instead("os.lstat", earlier):
        expect_refusal(path, BOUND)
    start_and_close(path)
