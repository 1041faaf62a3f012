"""One absolute path serves every step, and it is the one the kernel means by what was given."""

import errno
import os
import socket
import sys
from pathlib import Path

import pytest

import unixsock
from children import Child
from observed import expect_refusal, imported_anew, raised_by, reaches, start_and_close
from system_calls import fails_with, instead

LIMIT = 107 if sys.platform == "linux" else 103


class Named:
    """An os.PathLike that is no pathlib.Path, and may name a file in bytes."""

    def __init__(self, name):
        self._name = name

    def __fspath__(self):
        return self._name


@pytest.mark.parametrize("given_as", [str, os.fsencode, Path, Named, lambda path: Named(os.fsencode(path))])
def test_a_path_comes_as_str_bytes_or_pathlike_and_the_guard_answers_in_str(path, given_as):
    sock, guard = unixsock.bind_exclusive(given_as(path))
    with guard:
        assert (guard.address, guard.lock_path) == (path, path + ".lock")
        assert reaches(guard.address, sock)
    start_and_close(path)


def test_an_odd_kind_of_str_comes_back_as_a_plain_one(path):
    class Odd(str):
        __slots__ = ()

        def __add__(self, other):
            return other

        __str__ = __repr__ = __add__

    with unixsock.bind_exclusive(Odd(path))[1] as guard:
        assert (guard.address, guard.lock_path) == (path, path + ".lock")
        assert type(guard.address) is type(guard.lock_path) is str


@pytest.mark.skipif(sys.platform == "darwin", reason="file names are UTF-8 here")
def test_a_path_that_is_not_utf_8_is_the_same_as_bytes_and_as_surrogates(directory):
    encoded = os.fsencode(directory) + b"/\xff\xfe.sock"
    decoded = os.fsdecode(encoded)
    for given, other in [(encoded, decoded), (decoded, encoded)]:
        sock, guard = unixsock.bind_exclusive(given)
        with guard:
            assert guard.address == decoded
            assert reaches(guard.address, sock)
            assert expect_refusal(other).filename == decoded
        assert os.listdir(os.fsencode(directory)) == [b"\xff\xfe.sock.lock"]


@pytest.mark.parametrize("given", ["a.sock", "./a.sock", b"./a.sock"])
def test_a_relative_path_is_joined_to_the_working_directory_once(directory, monkeypatch, given):
    here, there = directory / "here", directory / "there"
    here.mkdir()
    there.mkdir()
    monkeypatch.chdir(there)
    with socket.socket(socket.AF_UNIX) as other:
        other.bind("a.sock")
        other.listen()
        monkeypatch.chdir(here)
        sock, guard = unixsock.bind_exclusive(given, mode=0o600)
        assert guard.address == os.path.join(os.getcwd(), os.fsdecode(given))
        assert guard.lock_path == guard.address + ".lock"
        monkeypatch.chdir(there)
        assert reaches(guard.address, sock)
        guard.close()
        assert os.listdir(here) == ["a.sock.lock"]
        assert os.listdir(there) == ["a.sock"]
        assert reaches("a.sock", other)


@pytest.mark.parametrize(("system", "limit"), [("linux", 107), ("darwin", 103), ("freebsd14", 103), ("openbsd7", 103)])
def test_the_limit_is_that_of_the_systems_sun_path(directory, system, limit, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(sys, "platform", system)
        package = imported_anew(patch)
        with pytest.raises(OSError, match=rf"\b{limit + 1} bytes.*\b{limit}\b"):
            package.bind_exclusive(padded(directory, limit + 1))
        longest = padded(directory, limit)
        sock, guard = package.bind_exclusive(longest, mode=0o600)
        with guard:
            assert reaches(longest, sock)
    assert os.listdir(directory) == [os.path.basename(longest) + ".lock"]


@pytest.mark.parametrize("given_as", [str, os.fsencode])
@pytest.mark.parametrize("letter", ["a", "é"])
def test_a_longer_path_is_refused_with_its_length_in_bytes_and_the_limit(directory, given_as, letter):
    path = padded(directory, LIMIT if letter == "é" else LIMIT + 1, letter)
    with pytest.raises(OSError, match=rf"\b{len(os.fsencode(path))} bytes.*\b{LIMIT}\b") as refusal:
        unixsock.bind_exclusive(given_as(path))
    assert (refusal.value.errno, refusal.value.filename) == (errno.ENAMETOOLONG, path)
    assert os.listdir(directory) == []


def test_a_relative_path_may_be_too_long_in_its_absolute_form_alone(directory, monkeypatch):
    deep = directory / ("d" * LIMIT)
    deep.mkdir()
    monkeypatch.chdir(deep)
    with pytest.raises(OSError, match=rf"\b{len(os.getcwdb()) + 7} bytes.*\b{LIMIT}\b") as refusal:
        unixsock.bind_exclusive("a.sock")
    assert (refusal.value.errno, refusal.value.filename) == (errno.ENAMETOOLONG, str(deep / "a.sock"))
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
        assert expect_refusal(f"{directory}/{spelling}").filename == f"{directory}/{spelling}"
    assert os.listdir(directory / "real") == ["a.sock.lock"]


def test_the_suffix_is_appended_so_that_two_sockets_never_share_a_lock(directory):
    with unixsock.bind_exclusive(directory / "a.sock")[1], unixsock.bind_exclusive(directory / "a.pipe")[1] as guard:
        assert guard.lock_path == str(directory / "a.pipe.lock")


def test_without_a_working_directory_a_relative_path_is_refused_and_an_absolute_one_works(directory, path):
    (directory / "gone").mkdir()
    with Child() as child:
        child.do("os.chdir(gone); os.rmdir(gone)", gone=str(directory / "gone"))
        assert raised_by(child, "a.sock") == ("FileNotFoundError", errno.ENOENT, "a.sock")
        child.do("unixsock.bind_exclusive(path, mode=0o600)[1].close()", path=path)
    with instead("os.getcwd", fails_with(errno.ENOENT)), pytest.raises(FileNotFoundError) as refusal:
        unixsock.bind_exclusive("a.sock")
    assert refusal.value.filename == "a.sock"
    assert os.listdir(directory) == ["a.sock.lock"]


@pytest.mark.parametrize("given", [3, 3.0, None, bytearray(b"a.sock"), memoryview(b"a.sock"), [], Named(3)])
def test_what_is_no_path_is_a_type_error(directory, monkeypatch, given):
    monkeypatch.chdir(directory)
    with pytest.raises(TypeError):
        unixsock.bind_exclusive(given)
    assert os.listdir(directory) == []


WRONG = {
    "empty": ["", b"", Named("")],
    "bind_abstract": ["\0name", b"\0name", "a\0.sock", b"a.sock\0", "\0"],
    "file name": ["sub/", "sub//", "sub/.", "sub/..", ".", "..", "/", b"sub/", b"..", Path(".")],
    "surrogates": ["\ud800.sock"],
}


@pytest.mark.parametrize(("why", "given"), [(why, given) for why, group in WRONG.items() for given in group])
def test_what_names_no_file_is_refused_with_the_reason(directory, monkeypatch, why, given):
    (directory / "sub").mkdir()
    monkeypatch.chdir(directory)
    with pytest.raises(ValueError, match=why):
        unixsock.bind_exclusive(given)
    assert os.listdir(directory) == ["sub"]
    assert os.listdir(directory / "sub") == []


@pytest.mark.parametrize("name", ["...", "..a", "a.", " ", "\n", "-", "é"])
def test_an_odd_file_name_is_a_file_name(directory, name):
    with unixsock.bind_exclusive(directory / name)[1]:
        assert sorted(os.listdir(directory)) == [name, name + ".lock"]


def padded(directory, length, letter="a"):
    """A path in `directory` that has `length` characters."""
    return f"{directory}/".ljust(length, letter)
