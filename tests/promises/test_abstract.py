"""An abstract name is no file: the kernel itself keeps its one owner, and frees it with the last descriptor."""

import errno
import os
import secrets
import socket
import sys
from pathlib import Path

import pytest

import unixsock
from children import Child
from observed import assert_serves
from unixsock import _bind

TYPES = [socket.SOCK_STREAM, socket.SOCK_SEQPACKET, socket.SOCK_DGRAM]

each_type = pytest.mark.parametrize("kind", TYPES, ids=lambda kind: kind.name)
on_linux = pytest.mark.skipif(sys.platform != "linux", reason="no abstract names here")


@pytest.fixture
def name():
    """A name that nobody else on this machine uses."""
    return f"unixsock-test-{os.getpid()}-{secrets.token_hex(8)}"


@on_linux
@each_type
def test_a_socket_comes_back_bound_and_serves_a_client_that_has_the_guards_address(name, kind):
    sock, guard = unixsock.bind_abstract(name, type=kind)
    with guard, socket.socket(socket.AF_UNIX, kind) as client:
        assert type(sock) is socket.socket
        assert sock.type == kind
        assert guard.address == "\0" + name
        assert_serves(sock, kind, client, guard.address)
    assert sock.fileno() == -1


@on_linux
def test_there_is_no_lock_and_no_file(name, directory, monkeypatch):
    monkeypatch.chdir(directory)
    sock, guard = unixsock.bind_abstract(name)
    with guard:
        assert guard.lock_path is None
        with pytest.raises(ValueError, match="no lock"):
            guard.fileno()
        assert not os.get_inheritable(sock.fileno())
        assert repr(guard) == f"<unixsock.Guard {guard.address!r}>"
    with pytest.raises(ValueError, match="closed"):
        guard.fileno()
    assert os.listdir(directory) == []


@on_linux
@pytest.mark.parametrize("tail", ["", "-é", "\0", "-\0-\0", "/a.sock", "-\udcff"])
def test_str_and_bytes_are_one_name(name, tail):
    text = name + tail
    for given, other in [(text, os.fsencode(text)), (os.fsencode(text), text)]:
        with unixsock.bind_abstract(given)[1] as guard:
            assert guard.address == "\0" + text
            with pytest.raises(unixsock.AddressInUseError) as refusal:
                unixsock.bind_abstract(other)
            assert refusal.value.filename == text


@on_linux
def test_names_that_differ_in_their_nuls_are_different_names(name):
    for other in (name + "\0", "\0" + name):
        with unixsock.bind_abstract(name)[1], unixsock.bind_abstract(other)[1]:
            pass


@on_linux
def test_a_name_has_1_to_107_bytes(name):
    unixsock.bind_abstract(b"\x07", timeout=5)[1].close()  # a moment, in case these tests run twice at once
    unixsock.bind_abstract(name.ljust(107, "a"))[1].close()


@pytest.mark.parametrize("given", ["a" * 108, b"a" * 108, "é" * 54])
def test_a_longer_name_is_refused_with_its_length_and_the_limit(given):
    with pytest.raises(OSError, match=r"\b108 bytes.*\b107\b") as refusal:
        unixsock.bind_abstract(given)
    assert refusal.value.errno == errno.ENAMETOOLONG
    assert refusal.value.filename == os.fsdecode(given)


@pytest.mark.parametrize("given", ["", b""])
def test_an_empty_name_is_refused(given):
    with pytest.raises(ValueError, match="empty"):
        unixsock.bind_abstract(given)


@pytest.mark.parametrize("given", [None, 3, bytearray(b"a"), memoryview(b"a"), Path("a"), ["a"]])
def test_a_name_is_str_or_bytes(given):
    with pytest.raises(TypeError, match=r"^name must be str or bytes"):
        unixsock.bind_abstract(given)


@pytest.mark.parametrize("argument", ["mode", "path"])
def test_a_name_has_neither_mode_nor_path(name, argument):
    with pytest.raises(TypeError, match=argument):
        unixsock.bind_abstract(name, **{argument: 0o600})


@pytest.mark.parametrize("given_as", [str, os.fsencode])
@pytest.mark.parametrize("system", ["darwin", "openbsd7"])
def test_elsewhere_than_on_linux_the_error_says_so(name, given_as, system, monkeypatch):
    with pytest.raises(OSError, match="Linux only") as refusal, monkeypatch.context() as patch:
        patch.setattr(sys, "platform", system)
        unixsock.bind_abstract(given_as(name))
    assert refusal.value.errno == errno.EOPNOTSUPP
    assert refusal.value.filename == name


@on_linux
@pytest.mark.parametrize("given_as", [str, os.fsencode])
def test_the_second_owner_is_refused(name, given_as):
    with Child() as owner:
        owner.do("sock, guard = unixsock.bind_abstract(name)", name=name)
        with pytest.raises(unixsock.AddressInUseError, match="abstract name") as refusal:
            unixsock.bind_abstract(given_as(name))
        assert refusal.value.errno == errno.EADDRINUSE
        assert refusal.value.filename == name
        assert refusal.value.owner_pid is None
        assert refusal.value.__suppress_context__


@on_linux
def test_a_server_that_bound_the_name_by_itself_keeps_it(name):
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("\0" + name)
        with pytest.raises(unixsock.AddressInUseError):
            unixsock.bind_abstract(name)
        with socket.socket(socket.AF_UNIX) as client:
            server.listen()
            client.connect("\0" + name)
            server.accept()[0].close()


@on_linux
def test_a_name_is_taken_per_type_of_socket(name):
    with unixsock.bind_abstract(name)[1], unixsock.bind_abstract(name, type=socket.SOCK_DGRAM)[1]:
        for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
            with pytest.raises(unixsock.AddressInUseError):
                unixsock.bind_abstract(name, type=kind)


@on_linux
def test_the_name_is_free_after_close(name):
    for _ in range(10):
        unixsock.bind_abstract(name)[1].close()


@on_linux
def test_the_name_is_free_after_a_sigkill(name):
    with Child() as owner:
        owner.do("sock, guard = unixsock.bind_abstract(name)", name=name)
        owner.kill()
        unixsock.bind_abstract(name)[1].close()


@on_linux
def test_a_forked_childs_close_leaves_the_parents_name(name):
    with Child() as parent:
        parent.do("sock, guard = unixsock.bind_abstract(name)", name=name)
        with parent.fork() as child:
            child.do("guard.close()")
        with socket.socket(socket.AF_UNIX) as client:
            client.connect("\0" + name)
            parent.do("sock.accept()")
        with parent.fork() as child:
            parent.kill()
            with pytest.raises(unixsock.AddressInUseError):
                unixsock.bind_abstract(name)
            child.do("guard.close()")
            unixsock.bind_abstract(name)[1].close()


@on_linux
def test_who_waits_gets_the_name_when_its_owner_leaves(name, monkeypatch):
    with Child() as owner:
        owner.do("sock, guard = unixsock.bind_abstract(name)", name=name)
        sleep = _bind.time.sleep

        def sleep_and_let_the_owner_leave(seconds):
            owner.do("guard.close()")
            sleep(seconds)

        monkeypatch.setattr(_bind.time, "sleep", sleep_and_let_the_owner_leave)
        unixsock.bind_abstract(name, timeout=None)[1].close()


@on_linux
def test_who_waits_in_vain_is_refused_in_the_end(name):
    with unixsock.bind_abstract(name)[1], pytest.raises(unixsock.AddressInUseError) as refusal:
        unixsock.bind_abstract(name, timeout=0.01)
    assert refusal.value.filename == name


@on_linux
@pytest.mark.parametrize("call", ["bind", "listen"])
def test_what_fails_on_the_way_names_the_name_and_frees_it(name, monkeypatch, call):
    def failing(*arguments):
        raise OSError(errno.ENOBUFS, "No buffers")

    with pytest.raises(OSError, match="No buffers") as refusal, monkeypatch.context() as patch:
        patch.setattr(socket.socket, call, failing)
        unixsock.bind_abstract(name)
    assert refusal.value.errno == errno.ENOBUFS
    assert refusal.value.filename == name
    unixsock.bind_abstract(name)[1].close()
