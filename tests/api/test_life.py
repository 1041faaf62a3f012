"""The ordinary life of a path: bind, serve, close, again."""

import os

import pytest

import unixsock
from observed import assert_serves, each_type, expect_refusal, mode_of


@each_type
def test_a_socket_comes_back_bound_listening_if_it_can_and_serves(path, kind):
    sock, guard = unixsock.bind_exclusive(path, type=kind)
    with guard:
        assert sock.type == kind
        assert sock.getsockname() == path
        assert sock.gettimeout() is None
        assert_serves(sock, kind, guard.address)


def test_a_second_owner_is_refused(path):
    with unixsock.bind_exclusive(path)[1] as guard:
        expect_refusal(path)
        assert not guard.closed


def test_close_removes_the_socket_file_and_keeps_the_lock_file_empty_and_private(path):
    sock, guard = unixsock.bind_exclusive(path)
    with open(guard.lock_path) as lock_file:  # so that no other file gets its inode
        guard.close()
        assert guard.closed
        assert sock.fileno() == -1
        assert os.listdir(os.path.dirname(path)) == ["a.sock.lock"]
        assert os.path.samestat(os.fstat(lock_file.fileno()), os.stat(guard.lock_path))
    assert os.path.getsize(guard.lock_path) == 0
    assert mode_of(guard.lock_path) == 0o600


def test_a_closed_guard_can_be_closed_again_and_not_be_used(path):
    _, guard = unixsock.bind_exclusive(path)
    guard.close()
    guard.close()
    with pytest.raises(ValueError, match="closed"):
        guard.fileno()
    with pytest.raises(ValueError, match="closed"), guard:
        pass


def test_the_with_statement_closes_even_when_its_body_raises(path):
    _, guard = unixsock.bind_exclusive(path)
    with pytest.raises(ZeroDivisionError), guard as entered:
        assert entered is guard
        raise ZeroDivisionError
    assert guard.closed
    assert not os.path.exists(path)


def test_both_descriptors_are_close_on_exec(path):
    sock, guard = unixsock.bind_exclusive(path)
    with guard:
        assert not os.get_inheritable(sock.fileno())
        assert not os.get_inheritable(guard.fileno())


def test_the_guard_says_what_it_guards(path):
    _, guard = unixsock.bind_exclusive(path)
    with guard:
        assert (guard.address, guard.lock_path, guard.closed) == (path, path + ".lock", False)
        assert repr(guard) == f"<unixsock.Guard {path!r}>"
    assert repr(guard) == f"<unixsock.Guard {path!r} closed>"


@pytest.mark.parametrize("name", ["address", "lock_path", "closed"])
def test_the_attributes_of_a_guard_are_read_only(path, name):
    with unixsock.bind_exclusive(path)[1] as guard, pytest.raises(AttributeError):
        setattr(guard, name, "elsewhere")
