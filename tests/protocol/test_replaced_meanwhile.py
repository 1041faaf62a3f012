"""What a program without the lock puts in the place of a stale socket file, while that is probed, is not unlinked."""

import errno
import os
import socket

import pytest

import unixsock
from observed import BOUND, leave_stale, reaches, refused, start_and_close
from system_calls import intercepted


def after_the_probe(does):
    """Let `does()` happen once the last probe has been answered."""
    answers = []

    def hook(call):
        answer = call.run()
        if call.name == "socket.connect_ex":
            answers.append(answer)
            if answers == [errno.ECONNREFUSED] * 2:
                does()
        return answer

    return intercepted(hook)


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
            refused(path, BOUND)
        assert reaches(path, server)


def test_the_inode_number_alone_does_not_make_it_the_same_socket_file(path):
    # A filesystem may give the number of an unlinked file to the next one, as ext4 does: chmod changes the time alone.
    def touch():
        changed = os.lstat(path).st_ctime_ns
        while os.lstat(path).st_ctime_ns == changed:
            os.chmod(path, 0o700)

    leave_stale(path)
    with after_the_probe(touch):
        refused(path, BOUND)
    start_and_close(path)


def test_a_stale_socket_file_that_has_gone_is_not_in_the_way(path):
    leave_stale(path)
    with after_the_probe(lambda: os.unlink(path)):
        start_and_close(path)
