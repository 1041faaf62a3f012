"""One absolute path serves every step, and it is the one the kernel means by what was given."""

import errno
import os
import runpy
import socket
import sys
from pathlib import Path

import pytest

import unixsock
from children import Child, ChildError

LIMIT = 107 if sys.platform == "linux" else 103

needs_bytes_names = pytest.mark.skipif(sys.platform == "darwin", reason="file names are UTF-8 here")


class Named:
    """An os.PathLike that is no pathlib.Path, and may name a file in bytes."""

    def __init__(self, name):
        self._name = name

    def __fspath__(self):
        return self._name


@pytest.mark.parametrize("given_as", [str, os.fsencode, Path, Named, lambda path: Named(os.fsencode(path))])
def test_a_path_comes_as_str_bytes_or_pathlike_and_the_guard_answers_in_str(path, given_as):
    given = given_as(path)
    sock, guard = unixsock.bind_exclusive(given)
    with guard, socket.socket(socket.AF_UNIX) as client:
        assert (guard.address, guard.lock_path) == (path, path + ".lock")
        client.connect(guard.address)
        sock.accept()[0].close()
    assert os.listdir(os.path.dirname(path)) == ["a.sock.lock"]


def test_an_odd_kind_of_str_comes_back_as_a_plain_one(path):
    class Odd(str):
        __slots__ = ()

        def __add__(self, other):
            return other

        __str__ = __repr__ = __add__

    with unixsock.bind_exclusive(Odd(path))[1] as guard:
        assert (guard.address, guard.lock_path) == (path, path + ".lock")
        assert type(guard.address) is type(guard.lock_path) is str


@needs_bytes_names
def test_a_name_that_is_not_utf_8_is_the_same_as_bytes_and_as_surrogates(directory):
    encoded = os.fsencode(directory) + b"/\xff\xfe.sock"
    for given, other in [(encoded, os.fsdecode(encoded)), (os.fsdecode(encoded), encoded)]:
        _, guard = unixsock.bind_exclusive(given)
        with guard, socket.socket(socket.AF_UNIX) as client:
            assert guard.address == os.fsdecode(given)
            client.connect(guard.address)
            with pytest.raises(unixsock.AddressInUseError) as refusal:
                unixsock.bind_exclusive(other)
            assert refusal.value.filename == os.fsdecode(other)
        assert os.listdir(os.fsencode(directory)) == [b"\xff\xfe.sock.lock"]


def test_a_relative_path_is_joined_to_the_working_directory_once(directory, monkeypatch):
    here, there = directory / "here", directory / "there"
    here.mkdir()
    there.mkdir()
    monkeypatch.chdir(there)
    with socket.socket(socket.AF_UNIX) as stranger:
        stranger.bind("a.sock")
        stranger.listen()
        inode = os.lstat("a.sock").st_ino
        monkeypatch.chdir(here)
        sock, guard = unixsock.bind_exclusive("a.sock", mode=0o600)
        assert guard.address == os.path.join(os.getcwd(), "a.sock")
        assert guard.lock_path == guard.address + ".lock"
        monkeypatch.chdir(there)
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(guard.address)
            sock.accept()[0].close()
        guard.close()
        assert os.listdir(here) == ["a.sock.lock"]
        assert os.listdir(there) == ["a.sock"]
        assert os.lstat("a.sock").st_ino == inode


def test_a_relative_path_in_bytes_becomes_absolute(directory, monkeypatch):
    monkeypatch.chdir(directory)
    with unixsock.bind_exclusive(b"./a.sock")[1] as guard:
        assert guard.address == os.getcwd() + "/./a.sock"
        assert guard.lock_path == guard.address + ".lock"


def test_a_path_as_long_as_the_kernel_takes_is_bound(directory):
    path = padded(directory, LIMIT)
    sock, guard = unixsock.bind_exclusive(path, mode=0o600)
    with guard, socket.socket(socket.AF_UNIX) as client:
        client.connect(guard.address)
        sock.accept()[0].close()
    assert os.listdir(directory) == [os.path.basename(path) + ".lock"]


@pytest.mark.parametrize(("system", "limit"), [("linux", 107), ("darwin", 103), ("freebsd14", 103), ("openbsd7", 103)])
def test_the_limit_is_that_of_the_systems_sun_path(system, limit, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(sys, "platform", system)
        assert runpy.run_path(unixsock._arguments.__file__)["PATH_LIMIT"] == limit


@pytest.mark.parametrize("given_as", [str, os.fsencode])
def test_one_byte_more_is_refused_with_its_length_and_the_limit(directory, given_as):
    given = given_as(padded(directory, LIMIT + 1))
    with pytest.raises(OSError, match=rf"\b{LIMIT + 1} bytes.*\b{LIMIT}\b") as refusal:
        unixsock.bind_exclusive(given)
    assert refusal.value.errno == errno.ENAMETOOLONG
    assert refusal.value.filename == os.fsdecode(given)
    assert os.listdir(directory) == []


def test_the_limit_counts_bytes_not_characters(directory):
    given = str(directory / ("é" * (LIMIT - len(str(directory)) - 1)))
    assert len(given) == LIMIT
    with pytest.raises(OSError, match=rf"\b{len(os.fsencode(given))} bytes") as refusal:
        unixsock.bind_exclusive(given)
    assert refusal.value.errno == errno.ENAMETOOLONG
    assert os.listdir(directory) == []


def test_a_relative_path_may_be_too_long_in_its_absolute_form_alone(directory, monkeypatch):
    deep = directory / ("d" * LIMIT)
    deep.mkdir()
    monkeypatch.chdir(deep)
    length = len(os.getcwdb()) + len(b"/a.sock")
    with pytest.raises(OSError, match=rf"\b{length} bytes.*\b{LIMIT}\b") as refusal:
        unixsock.bind_exclusive("a.sock")
    assert refusal.value.errno == errno.ENAMETOOLONG
    assert refusal.value.filename == str(deep / "a.sock")
    assert os.listdir(deep) == []


@pytest.mark.parametrize("form", ["absolute", "relative"])
def test_a_path_is_never_normalised(directory, monkeypatch, form):
    # What the kernel finds at link/.. is x, not the directory that link is in.
    inside = directory / "x" / "y"
    inside.mkdir(parents=True)
    (directory / "link").symlink_to(inside)
    monkeypatch.chdir(directory)
    start = f"{os.getcwd()}/" if form == "absolute" else ""
    with unixsock.bind_exclusive(f"{start}link/../a.sock")[1] as guard:
        assert guard.address == f"{os.getcwd()}/link/../a.sock"
        assert sorted(os.listdir(directory / "x")) == ["a.sock", "a.sock.lock", "y"]
    assert sorted(os.listdir(directory / "x")) == ["a.sock.lock", "y"]
    assert sorted(os.listdir(directory)) == ["link", "x"]


@pytest.mark.parametrize("spelling", ["link/a.sock", "real//a.sock", "real/./a.sock", "real/../link/a.sock"])
def test_two_spellings_of_a_directory_meet_at_one_lock(directory, spelling):
    (directory / "real").mkdir()
    (directory / "link").symlink_to("real")
    with unixsock.bind_exclusive(directory / "real" / "a.sock")[1]:
        with pytest.raises(unixsock.AddressInUseError, match="taken by") as refusal:
            unixsock.bind_exclusive(f"{directory}/{spelling}")
        assert refusal.value.filename == f"{directory}/{spelling}"
    assert os.listdir(directory / "real") == ["a.sock.lock"]


def test_the_suffix_is_appended_so_that_two_sockets_never_share_a_lock(directory):
    with unixsock.bind_exclusive(directory / "a.sock")[1], unixsock.bind_exclusive(directory / "a.pipe")[1] as guard:
        assert guard.lock_path == str(directory / "a.pipe.lock")


def test_without_a_working_directory_a_relative_path_is_refused_and_an_absolute_one_works(directory, path):
    (directory / "gone").mkdir()
    with Child() as child:
        child.do("os.chdir(gone); os.rmdir(gone)", gone=str(directory / "gone"))
        with pytest.raises(ChildError, match=r"No such file or directory: 'a\.sock'") as refusal:
            child.do("unixsock.bind_exclusive('a.sock')")
        assert refusal.value.kind == "FileNotFoundError"
        child.do("sock, guard = unixsock.bind_exclusive(path, mode=0o600)", path=path)
        child.do("guard.close()")
    assert os.listdir(directory) == ["a.sock.lock"]


@pytest.mark.parametrize("given", [3, 3.0, None, bytearray(b"a.sock"), memoryview(b"a.sock"), [], Named(3)])
def test_what_is_no_path_is_a_type_error(directory, monkeypatch, given):
    monkeypatch.chdir(directory)
    with pytest.raises(TypeError):
        unixsock.bind_exclusive(given)
    assert os.listdir(directory) == []


@pytest.mark.parametrize("given", ["", b"", Named("")])
def test_an_empty_path_is_refused(given):
    with pytest.raises(ValueError, match="empty"):
        unixsock.bind_exclusive(given)


@pytest.mark.parametrize("given", ["\0name", b"\0name", "a\0.sock", b"a.sock\0", "\0"])
def test_a_nul_is_refused_with_a_pointer_to_abstract_names(directory, monkeypatch, given):
    monkeypatch.chdir(directory)
    with pytest.raises(ValueError, match="bind_abstract"):
        unixsock.bind_exclusive(given)
    assert os.listdir(directory) == []


@pytest.mark.parametrize("given", ["sub/", "sub//", "sub/.", "sub/..", ".", "..", "/", b"sub/", b"..", Path(".")])
def test_a_path_that_ends_in_no_file_name_is_refused(directory, monkeypatch, given):
    (directory / "sub").mkdir()
    monkeypatch.chdir(directory)
    with pytest.raises(ValueError, match="file name"):
        unixsock.bind_exclusive(given)
    assert os.listdir(directory) == ["sub"]
    assert os.listdir(directory / "sub") == []


def test_a_str_that_no_file_name_can_be_made_of_is_refused(directory):
    with pytest.raises(ValueError, match="surrogates"):
        unixsock.bind_exclusive(f"{directory}/\ud800.sock")
    assert os.listdir(directory) == []


@pytest.mark.parametrize("name", ["...", "..a", "a.", " ", "\n", "-", "é"])
def test_an_odd_file_name_is_a_file_name(directory, name):
    with unixsock.bind_exclusive(directory / name)[1]:
        assert sorted(os.listdir(directory)) == [name, name + ".lock"]


def padded(directory, length):
    """A path in `directory` that has `length` bytes."""
    return f"{directory}/".ljust(length, "a")
