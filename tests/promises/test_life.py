"""The ordinary life of an address: bind, serve, close, again."""

import os
import socket
import stat

import pytest

import unixsock


def test_a_stream_socket_comes_back_bound_and_listening_and_serves(path):
    sock, guard = unixsock.bind_exclusive(path)
    with guard, socket.socket(socket.AF_UNIX) as client:
        assert type(sock) is socket.socket
        assert sock.getsockname() == path
        client.connect(guard.address)
        served, _ = sock.accept()
        with served:
            client.sendall(b"ping")
            assert served.recv(4) == b"ping"


def test_close_removes_the_name_and_keeps_the_lock_file(path):
    sock, guard = unixsock.bind_exclusive(path)
    inode = os.stat(guard.lock_path).st_ino
    guard.close()
    assert guard.closed
    assert sock.fileno() == -1
    assert os.listdir(os.path.dirname(path)) == ["a.sock.lock"]
    assert os.stat(guard.lock_path).st_ino == inode
    assert os.path.getsize(guard.lock_path) == 0


def test_the_lock_file_is_made_for_its_owner_alone(path):
    with unixsock.bind_exclusive(path)[1] as guard:
        assert stat.S_IMODE(os.stat(guard.lock_path).st_mode) == 0o600


def test_close_can_be_called_again(path):
    _, guard = unixsock.bind_exclusive(path)
    guard.close()
    guard.close()
    assert guard.closed


def test_a_closed_guard_refuses_to_be_used(path):
    _, guard = unixsock.bind_exclusive(path)
    guard.close()
    with pytest.raises(ValueError, match="closed"):
        guard.fileno()
    with pytest.raises(ValueError, match="closed"), guard:
        pass


def test_the_with_statement_closes_also_when_its_body_raises(path):
    _, guard = unixsock.bind_exclusive(path)
    with pytest.raises(ZeroDivisionError), guard as entered:
        assert entered is guard
        raise ZeroDivisionError
    assert guard.closed
    assert not os.path.exists(path)


def test_the_name_can_be_bound_again_at_once_a_hundred_times(path):
    for _ in range(100):
        unixsock.bind_exclusive(path)[1].close()


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
