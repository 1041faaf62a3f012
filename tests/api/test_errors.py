"""Each error can be told from the others, names its path, and leaves nothing behind."""

import copy
import errno
import fcntl
import gc
import os
import pickle
import re
import socket
import sys

import pytest

import unixsock
from children import Child
from observed import BOUND, ODD_FILES, as_root, expect_refusal, leave_stale, on_linux, raised_by, snapshot
from system_calls import fails_with, instead, intercepted

OCCUPANTS = {**ODD_FILES, "an empty file": (lambda path: open(path, "x").close(), "a regular file")}


@pytest.mark.parametrize("occupant", OCCUPANTS)
def test_what_is_not_a_socket_is_named_and_left_alone(directory, path, occupant):
    make, kind = OCCUPANTS[occupant]
    with socket.socket(socket.AF_UNIX) as live:
        live.bind(str(directory / "live.sock"))
        live.listen()
        leave_stale(directory / "stale.sock")
        (directory / "file").write_text("precious")
        make(path)
        unchanged = snapshot(directory)
        with pytest.raises(FileExistsError, match=f"is {kind}, not a socket") as refusal:
            unixsock.bind_exclusive(path)
        assert (refusal.value.errno, refusal.value.filename) == (errno.EEXIST, path)
        assert snapshot(directory) == unchanged


def test_an_error_names_the_absolute_path_even_if_a_relative_one_was_given(directory, path, monkeypatch):
    monkeypatch.chdir(directory)
    with unixsock.bind_exclusive("a.sock")[1]:
        assert expect_refusal("a.sock").filename == path
        os.unlink(path)
        os.mkdir(path)
    with pytest.raises(FileExistsError) as refusal:
        unixsock.bind_exclusive(b"a.sock")
    assert refusal.value.filename == path


def test_a_live_server_without_the_lock_is_told_from_an_owner(path):
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path)
        error = expect_refusal(path, BOUND)
    assert re.search("nobody holds the lock: .*; see (ss|lsof)", error.strerror)
    assert (error.errno, error.filename, error.owner_pid) == (errno.EADDRINUSE, path, None)
    assert (error.__cause__, error.__suppress_context__) == (None, True)


@pytest.mark.parametrize(
    ("parent", "code"), [("missing", errno.ENOENT), ("file", errno.ENOTDIR), ("loop", errno.ELOOP)]
)
def test_without_a_directory_it_is_the_systems_own_error_and_names_the_socket_file(directory, parent, code):
    (directory / "file").write_text("precious")
    (directory / "loop").symlink_to("loop")
    unchanged = snapshot(directory)
    with pytest.raises(OSError, match=re.escape(os.strerror(code))) as refusal:
        unixsock.bind_exclusive(directory / parent / "a.sock")
    assert (refusal.value.errno, refusal.value.filename) == (code, str(directory / parent / "a.sock"))
    assert snapshot(directory) == unchanged


def test_where_a_user_may_not_write_the_error_names_the_file_that_could_not_be_made(directory, path, user):
    directory.chmod(0o555)
    assert raised_by(user, path) == ("PermissionError", errno.EACCES, path + ".lock")
    assert os.listdir(directory) == []
    directory.chmod(0o755)
    open(path + ".lock", "x").close()
    os.chmod(path + ".lock", 0o666)
    directory.chmod(0o555)
    assert raised_by(user, path) == ("PermissionError", errno.EACCES, path)
    with open(path + ".lock") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    directory.chmod(0o755)
    assert os.listdir(directory) == ["a.sock.lock"]


@on_linux
def test_a_read_only_filesystem_is_the_systems_own_error(directory, path):
    with Child() as child:
        if not child.do(MOUNTED_READ_ONLY, directory=str(directory)):
            pytest.skip("may not mount here, not even in a namespace")
        assert raised_by(child, path) == ("OSError", errno.EROFS, path + ".lock")


MOUNTED_READ_ONLY = """
import ctypes
libc = ctypes.CDLL(None)
NEWNS, NEWUSER, RDONLY, PRIVATE = 0x20000, 0x10000000, 0x1, 0x44000
_ = (
    libc.unshare(NEWNS if os.geteuid() == 0 else NEWNS | NEWUSER) == 0
    and libc.mount(None, b"/", None, PRIVATE, None) == 0
    and libc.mount(b"tmpfs", directory.encode(), b"tmpfs", RDONLY, None) == 0
)
"""


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS])
def test_where_there_are_no_locks_no_weaker_kind_is_tried(directory, path, code):
    def without_locks(call):
        assert call.name not in ("fcntl.lockf", "fcntl.fcntl", "os.lockf")
        return fails_with(code)(call) if call.name == "fcntl.flock" else call.run()

    leave_stale(path)
    unchanged = snapshot(directory)
    with intercepted(without_locks), pytest.raises(OSError, match=re.escape(os.strerror(code))) as refusal:
        unixsock.bind_exclusive(path)
    assert not isinstance(refusal.value, unixsock.AddressInUseError)
    assert (refusal.value.errno, refusal.value.filename) == (code, path + ".lock")
    assert snapshot(directory) == unchanged


def test_a_rename_that_is_refused_names_the_path_once(path):
    leave_stale(path)

    def refuse(call):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path, None, path)

    with instead("os.rename", refuse), pytest.raises(PermissionError) as refusal:
        unixsock.bind_exclusive(path)
    assert (refusal.value.filename, refusal.value.filename2) == (path, None)
    assert str(refusal.value).count(path) == 1


@as_root
def test_another_users_stale_socket_file_in_a_sticky_directory_is_the_systems_own_error(directory, path, user):
    leave_stale(path)
    directory.chmod(0o1777)
    os.chmod(path, 0o777)
    assert raised_by(user, path) == ("PermissionError", errno.EPERM, path)
    assert os.path.exists(path)


COPIES = [copy.copy, copy.deepcopy]
COPIES += [lambda thing, n=n: pickle.loads(pickle.dumps(thing, n)) for n in range(pickle.HIGHEST_PROTOCOL + 1)]


@pytest.mark.parametrize("copied", COPIES)
@pytest.mark.parametrize("pid", [4242, None])
def test_a_refusal_survives_pickle_and_copy_with_its_owner(copied, pid):
    error = unixsock.AddressInUseError(errno.EADDRINUSE, "taken by somebody", "/run/a.sock", owner_pid=pid)
    other = copied(error)
    assert type(other) is unixsock.AddressInUseError
    assert (other.errno, other.strerror, other.filename) == (errno.EADDRINUSE, "taken by somebody", "/run/a.sock")
    assert other.owner_pid == pid
    assert str(other) == str(error)


@pytest.mark.parametrize("copied", COPIES)
def test_a_guard_can_be_neither_pickled_nor_copied(path, copied):
    _, guard = unixsock.bind_exclusive(path)
    with pytest.raises(TypeError, match="neither pickled nor copied"):
        copied(guard)
    assert not guard.closed
    expect_refusal(path)
    guard.close()


def test_a_guard_cannot_be_made_by_hand_and_its_attempt_is_not_finalised(monkeypatch):
    noise = []
    monkeypatch.setattr(sys, "unraisablehook", noise.append)
    with pytest.raises(TypeError, match="argument"):
        unixsock.Guard()
    gc.collect()
    assert noise == []
