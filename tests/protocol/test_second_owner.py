"""A second owner is refused, is told who the first is, and leaves the first untouched."""

import errno
import os
import socket
import sys

import pytest

import unixsock
from children import Child, ChildError

BIND = "sock, guard = unixsock.bind_exclusive(path)"


def told(pid):
    """The owner that a refused start is told: `pid` where the system has /proc/locks."""
    return pid if sys.platform == "linux" else None


def refused(path):
    """The error that a new start meets."""
    with pytest.raises(unixsock.AddressInUseError) as caught:
        unixsock.bind_exclusive(path)
    return caught.value


def test_another_process_is_refused_and_told_the_owners_pid(path):
    with Child() as first:
        first.do(BIND, path=path)
        error = refused(path)
        assert (error.errno, error.filename, error.owner_pid) == (errno.EADDRINUSE, path, told(first.pid))
        assert (f"taken by pid {first.pid}" in str(error)) == (told(first.pid) is not None)


def test_the_same_process_is_refused_and_told_its_own_pid(path):
    with unixsock.bind_exclusive(path)[1]:
        assert refused(path).owner_pid == told(os.getpid())
        assert refused(path).owner_pid == told(os.getpid())  # the first refusal has not closed the lock


@pytest.mark.parametrize("type", [socket.SOCK_STREAM, socket.SOCK_DGRAM])
def test_a_second_owner_of_either_type_is_refused(path, type):  # noqa: A002 - as bind_exclusive calls it
    with unixsock.bind_exclusive(path)[1], pytest.raises(unixsock.AddressInUseError) as caught:
        unixsock.bind_exclusive(path, type=type)
    assert caught.value.owner_pid == told(os.getpid())


def test_two_spellings_of_a_directory_meet_at_one_lock(path, directory, monkeypatch):
    alias = directory / "alias"
    alias.symlink_to(directory)
    monkeypatch.chdir(directory)
    with unixsock.bind_exclusive(path)[1]:
        for spelling in (alias / "a.sock", alias / ".." / directory.name / "a.sock", "a.sock", os.fsencode(path)):
            error = refused(spelling)
            assert error.owner_pid == told(os.getpid())
            assert error.filename == os.path.join(os.getcwd(), os.fsdecode(spelling))


def test_the_first_is_left_untouched(path):
    with Child() as first:
        first.do(BIND, path=path)
        before = {entry.name: entry.stat() for entry in os.scandir(os.path.dirname(path))}
        refused(path)
        assert {entry.name: entry.stat() for entry in os.scandir(os.path.dirname(path))} == before
        first.do("sock.settimeout(0)")
        with pytest.raises(ChildError, match="BlockingIOError"):
            first.do("sock.accept()")  # no phantom client waits there
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(path)
            first.do("with sock.accept()[0] as served: served.sendall(b'still here')")
            assert client.recv(16) == b"still here"


def test_after_a_fork_the_owner_is_who_took_the_lock(path):
    with Child() as taker:
        taker.do(BIND, path=path)
        with taker.fork():
            taker.do("guard.close()")
            assert refused(path).owner_pid == told(taker.pid)
            taker.kill()
            # In a pid namespace of its own the kernel has forgotten the number of a process that is gone.
            assert refused(path).owner_pid in (told(taker.pid), None)


def test_two_paths_have_two_owners(path):
    with unixsock.bind_exclusive(path)[1], unixsock.bind_exclusive(path + "2")[1] as other:
        assert os.path.exists(other.address)
