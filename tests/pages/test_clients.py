"""What recipes.md tells the authors of clients: connect and try again, and connect a datagram sender anew."""

import errno
import os
import socket
import threading
import time

import pytest

import unixsock
from children import PATIENCE, Child
from markdown import block, read
from observed import full_queue, leave_stale, on_linux


def connect(path, patience, sleep=time.sleep):
    """The page's client, which pauses by `sleep`."""
    waits = type("time", (), {"monotonic": staticmethod(time.monotonic), "sleep": staticmethod(sleep)})
    names = {}
    exec(block(read("docs/recipes.md"), "def connect(path"), names)
    names["time"] = waits
    return names["connect"](path, patience)


@pytest.mark.parametrize("file", [None, leave_stale], ids=["no file", "a stale socket file"])
def test_a_client_waits_for_the_server_and_not_for_the_file(file, path):
    if file:
        file(path)
    with pytest.raises(FileNotFoundError if file is None else ConnectionRefusedError):
        connect(path, 0)
    tried = threading.Event()
    bound = []

    def sleep(seconds):
        tried.set()
        time.sleep(seconds)

    def bind_later():
        assert tried.wait(PATIENCE)
        bound.extend(unixsock.bind_exclusive(path))

    server = threading.Thread(target=bind_later)
    server.start()
    with connect(path, PATIENCE, sleep) as client:
        server.join()
        sock, guard = bound
        with guard:
            client.sendall(b"!")
            with sock.accept()[0] as accepted:
                assert accepted.recv(1) == b"!"


@on_linux  # where a full queue is EAGAIN
def test_a_client_waits_for_room_in_a_full_queue_but_not_longer_than_its_patience(path):
    sock, guard = unixsock.bind_exclusive(path, backlog=0)
    with guard, full_queue(path):
        with pytest.raises(BlockingIOError):
            connect(path, 0)
        with connect(path, PATIENCE, lambda _: sock.accept()[0].close()) as client:
            assert client.getblocking()


@on_linux  # whose errors these are
def test_a_connected_datagram_sender_has_to_connect_again_after_a_restart(path):
    bind = "sock, guard = unixsock.bind_exclusive(path, type=socket.SOCK_DGRAM)"
    with Child() as first, Child() as second, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        first.do(bind, path=path)
        sender.connect(path)
        sender.send(b"1")
        first.kill()
        second.do(bind, path=path)
        for number in (errno.ECONNREFUSED, errno.ENOTCONN, errno.ENOTCONN):
            with pytest.raises(OSError, match=os.strerror(number)):
                sender.send(b"2")
        sender.sendto(b"3", path)
        sender.connect(path)
        sender.send(b"4")
        assert second.value("[sock.recv(1).decode() for _ in range(2)]") == ["3", "4"]
