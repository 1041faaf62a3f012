"""What a crash left behind is cleared by the next start; what somebody bound meanwhile is not."""

import os
import socket
import sys

import pytest

import unixsock
from children import Child

STREAM, SEQPACKET, DGRAM = socket.SOCK_STREAM, socket.SOCK_SEQPACKET, socket.SOCK_DGRAM
TYPES = [STREAM, DGRAM] if sys.platform == "darwin" else [STREAM, SEQPACKET, DGRAM]  # macOS has no SOCK_SEQPACKET


@pytest.mark.parametrize("type", TYPES)
@pytest.mark.parametrize("left", TYPES)
def test_a_stale_name_of_each_type_is_cleared_by_each_type(path, left, type):  # noqa: A002 - as bind_exclusive calls it
    with socket.socket(socket.AF_UNIX, left) as dead:
        dead.bind(path)
    sock, guard = unixsock.bind_exclusive(path, type=type)
    with guard, socket.socket(socket.AF_UNIX, type) as client:
        assert sock.type == type
        client.connect(path)


@pytest.mark.parametrize("type", TYPES)
def test_a_name_left_by_a_killed_owner_is_cleared_also_without_its_lock_file(path, type):  # noqa: A002 - as above
    with Child() as owner:
        owner.do("sock, guard = unixsock.bind_exclusive(path, type=type)", path=path, type=type)
        owner.kill()
    os.unlink(path + ".lock")
    unixsock.bind_exclusive(path)[1].close()
    assert os.listdir(os.path.dirname(path)) == ["a.sock.lock"]


def test_the_lock_file_that_a_killed_owner_left_is_used_again(path):
    with Child() as owner:
        owner.do("sock, guard = unixsock.bind_exclusive(path)", path=path)
        owner.kill()
    before = os.stat(path + ".lock")
    with unixsock.bind_exclusive(path)[1]:
        assert os.stat(path + ".lock") == before


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
    unixsock.bind_exclusive(path)[1].close()


@pytest.mark.parametrize("type", TYPES)
def test_who_binds_without_the_lock_right_after_the_clearing_keeps_the_name(path, type, monkeypatch):  # noqa: A002
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(path)
    claim = unixsock._bind.claim
    with socket.socket(socket.AF_UNIX) as stranger:

        def claim_and_lose(*arguments, **options):
            lock = claim(*arguments, **options)
            stranger.bind(path)
            return lock

        monkeypatch.setattr(unixsock._bind, "claim", claim_and_lose)
        with pytest.raises(unixsock.AddressInUseError) as caught:
            unixsock.bind_exclusive(path, type=type)
        monkeypatch.undo()
        assert caught.value.owner_pid is None
        stranger.listen()
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(path)
    unixsock.bind_exclusive(path)[1].close()
