"""An abstract name is no file: the kernel itself keeps its one owner, and frees it with the last descriptor."""

import errno
import os
import secrets
import socket
import sys
import warnings
from pathlib import Path

import pytest

from children import Child
from observed import assert_serves, collect, each_type, expect_refusal, on_linux, reaches
from system_calls import before
from unixsock import bind_abstract

NAME_TAKEN = "abstract name"
BIND_ABSTRACT = "sock, guard = unixsock.bind_abstract(name)"


@pytest.fixture
def name():
    """A name that nobody else on this machine uses."""
    return f"unixsock-test-{os.getpid()}-{secrets.token_hex(8)}"


@on_linux
@each_type
def test_a_socket_comes_back_bound_and_serves_a_client_that_has_the_guards_address(name, kind):
    sock, guard = bind_abstract(name, type=kind)
    with guard:
        assert type(sock) is socket.socket
        assert sock.type == kind
        assert guard.address == "\0" + name
        assert_serves(sock, kind, guard.address)
    assert sock.fileno() == -1


@on_linux
def test_there_is_no_lock_and_no_file(name, directory, monkeypatch):
    monkeypatch.chdir(directory)
    sock, guard = bind_abstract(name)
    with guard:
        assert guard.lock_path is None
        with pytest.raises(ValueError, match="no lock"):
            guard.fileno()
        assert not os.get_inheritable(sock.fileno())
        assert repr(guard) == f"<unixsock.Guard {guard.address!r}>"
        assert os.listdir(directory) == []
    with pytest.raises(ValueError, match="closed"):
        guard.fileno()


@on_linux
@pytest.mark.parametrize("tail", ["", "-é", "\0", "-\0-\0", "/a.sock", "-\udcff"])
def test_str_and_bytes_are_one_name_and_a_second_owner_is_refused(name, tail):
    text = name + tail
    for given, other in [(text, os.fsencode(text)), (os.fsencode(text), text)]:
        with bind_abstract(given)[1] as guard:
            assert guard.address == "\0" + text
            error = expect_refusal(other, NAME_TAKEN, bind_abstract)
            assert (error.errno, error.filename, error.owner_pid) == (errno.EADDRINUSE, text, None)
            assert error.__suppress_context__


@on_linux
def test_names_that_differ_in_a_last_nul_are_different_names(name):
    with bind_abstract(name)[1], bind_abstract(name + "\0")[1] as guard:
        assert guard.address == "\0" + name + "\0"


@pytest.mark.parametrize("given", ["\0name", b"\0name", "\0"])
def test_a_leading_nul_as_plain_sockets_have_it_is_refused_since_it_is_added_here(given):
    with pytest.raises(ValueError, match="begins with a NUL, which is added here"):
        bind_abstract(given)


@on_linux
def test_a_name_has_1_to_107_bytes(name):
    bind_abstract(b"\x07", timeout=5)[1].close()  # a moment, in case these tests run twice at once
    bind_abstract(name.ljust(107, "a"))[1].close()


@pytest.mark.parametrize("given", ["a" * 108, b"a" * 108, "é" * 54])
def test_a_longer_name_is_refused_with_its_length_and_the_limit(given):
    with pytest.raises(OSError, match=r"\b108 bytes.*\b107\b") as refusal:
        bind_abstract(given)
    assert (refusal.value.errno, refusal.value.filename) == (errno.ENAMETOOLONG, os.fsdecode(given))


@pytest.mark.parametrize("given", ["", b""])
def test_an_empty_name_is_refused(given):
    with pytest.raises(ValueError, match="empty"):
        bind_abstract(given)


@pytest.mark.parametrize("given", [None, 3, bytearray(b"a"), memoryview(b"a"), Path("a"), ["a"]])
def test_a_name_is_str_or_bytes(given):
    with pytest.raises(TypeError, match=r"^name must be str or bytes"):
        bind_abstract(given)


@pytest.mark.parametrize("system", ["darwin", "openbsd7"])
def test_elsewhere_than_on_linux_the_error_says_so(name, system, monkeypatch):
    with pytest.raises(OSError, match="Linux only") as refusal, monkeypatch.context() as patch:
        patch.setattr(sys, "platform", system)
        bind_abstract(os.fsencode(name))
    assert (refusal.value.errno, refusal.value.filename) == (errno.EOPNOTSUPP, name)


@on_linux
def test_a_server_that_bound_the_name_by_itself_keeps_it(name):
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("\0" + name)
        expect_refusal(name, NAME_TAKEN, bind_abstract)
        server.listen()
        assert reaches("\0" + name, server)


@on_linux
def test_a_name_is_taken_per_type_of_socket(name):
    with bind_abstract(name)[1], bind_abstract(name, type=socket.SOCK_DGRAM)[1]:
        for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
            expect_refusal(name, NAME_TAKEN, bind_abstract, type=kind)


@on_linux
def test_a_forked_childs_close_leaves_the_parents_name_until_the_last_is_killed(name):
    with Child() as parent:
        parent.do(BIND_ABSTRACT, name=name)
        with parent.fork() as child:
            child.do("guard.close()")
        assert reaches("\0" + name, parent)
        with parent.fork() as child:
            parent.kill()
            expect_refusal(name, NAME_TAKEN, bind_abstract)
            child.kill()
            bind_abstract(name)[1].close()


@on_linux
def test_who_waits_gets_the_name_when_its_owner_leaves_and_is_refused_in_the_end_when_not(name):
    with Child() as owner:
        owner.do(BIND_ABSTRACT, name=name)
        assert expect_refusal(name, NAME_TAKEN, bind_abstract, timeout=0.01).filename == name
        with before("time.sleep", lambda _: owner.do("guard.close()")):
            bind_abstract(name, timeout=None)[1].close()


@on_linux
def test_a_name_is_free_when_its_guard_and_its_socket_were_dropped(name):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # the socket's
        bind_abstract(name)
        collect()
    bind_abstract(name)[1].close()


@on_linux
def test_on_android_abstract_names_are_those_of_linux(monkeypatch):
    monkeypatch.setattr(sys, "platform", "android")
    bind_abstract(f"unixsock-android-{os.getpid()}")[1].close()
