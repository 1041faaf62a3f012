"""A refusal says what is the case, about which path, and what to do."""

import errno
import fcntl
import os
import re
import socket
import sys

import pytest

import unixsock
from children import Child
from observed import BIND, BOUND, leave_stale, on_linux, raised_by, refused
from system_calls import before, failing, instead

on_procfs = pytest.mark.skipif(not os.path.exists("/proc/locks"), reason="no /proc/locks, so the owner is not known")


@on_procfs
def test_a_refusal_by_ones_own_process_says_so(path):
    with unixsock.bind_exclusive(path)[1]:
        assert f"this process, pid {os.getpid()}" in str(refused(path))
        assert f"this process, pid {os.getpid()}" in str(refused(path, timeout=0.002))
    with open(path + ".lock") as left_by_another_library:
        fcntl.flock(left_by_another_library, fcntl.LOCK_EX)
        assert "this process" in str(refused(path))


@on_procfs
def test_an_owner_that_has_ended_is_said_to_have_and_how_to_find_the_holder(path):
    with Child() as owner:
        owner.do(BIND, path=path)
        assert "ended" not in str(refused(path))
        with owner.fork() as holder:
            owner.kill()
            owner.wait()
            said = str(refused(path))
            assert f"pid {owner.pid}, which has ended" in said
            assert f"fuser {path}.lock" in said
            holder.do("guard.close()")


@on_procfs
def test_an_owner_that_may_not_be_signalled_has_not_ended(path):
    with Child() as owner:
        owner.do(BIND, path=path)
        with instead("os.kill", failing(errno.EPERM)):
            assert "ended" not in str(refused(path))


def test_a_refusal_says_when_the_owners_socket_file_was_deleted(path):
    with unixsock.bind_exclusive(path)[1]:
        assert "no socket file" not in str(refused(path))
        os.unlink(path)
        assert "no socket file is there" in str(refused(path))


def test_a_server_without_the_lock_may_be_one_that_is_just_ending(path):
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path)
        assert re.search(rf"{re.escape(path)}\.lock\b.* just ending", str(refused(path, BOUND)))


KINDS = {
    "a regular file": lambda path: open(path, "x").close(),
    "a directory": os.mkdir,
    "a symbolic link": lambda path: os.symlink("nothing", path),
    "a FIFO": os.mkfifo,
}


@pytest.mark.parametrize("kind", KINDS)
def test_what_stands_at_the_path_is_named(path, kind):
    KINDS[kind](path)
    with pytest.raises(FileExistsError, match=f"is {kind}, not a socket"):
        unixsock.bind_exclusive(path)


@pytest.mark.parametrize("kind", [*sorted(set(KINDS) - {"a regular file"}), "a socket"])
def test_what_stands_at_the_lock_path_is_named_and_what_to_do(path, kind):
    {**KINDS, "a socket": leave_stale}[kind](path + ".lock")
    with pytest.raises(OSError, match=f"Lock file is {kind}, .*remove it") as refusal:
        unixsock.bind_exclusive(path)
    assert refusal.value.filename == path + ".lock"


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to make a device")
def test_a_device_at_the_path_is_named(path):
    os.mknod(path, 0o20600, os.makedev(1, 3))
    with pytest.raises(FileExistsError, match="is a device, not a socket"):
        unixsock.bind_exclusive(path)


def test_a_directory_link_that_loops_is_not_blamed_on_the_lock_file(directory):
    os.symlink("loop", directory / "loop")
    with pytest.raises(OSError, match=re.escape(os.strerror(errno.ELOOP))) as refusal:
        unixsock.bind_exclusive(directory / "loop" / "a.sock")
    assert (refusal.value.errno, refusal.value.filename) == (errno.ELOOP, str(directory / "loop" / "a.sock"))


def test_a_rename_that_is_refused_names_the_path_once(path):
    leave_stale(path)
    with instead("os.rename", failing(errno.EACCES)), pytest.raises(PermissionError) as refusal:
        unixsock.bind_exclusive(path)
    assert (refusal.value.filename, refusal.value.filename2) == (path, None)
    assert str(refusal.value) == f"[Errno {errno.EACCES}] {os.strerror(errno.EACCES)}: {path!r}"


@on_linux
def test_a_socket_file_that_goes_while_its_mode_is_set_is_not_blamed_on_proc(path):
    umask = os.umask(0o077)
    try:
        with (
            before("os.chmod", lambda _: os.unlink(path)),
            pytest.raises(FileNotFoundError, match=re.escape(os.strerror(errno.ENOENT))) as refusal,
        ):
            unixsock.bind_exclusive(path, mode=0o666)
    finally:
        os.umask(umask)
    assert refusal.value.filename == path
    assert "/proc" not in str(refusal.value)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs another user's socket file")
def test_another_users_stale_socket_file_in_a_sticky_directory_is_the_systems_own_error(directory, path, user):
    leave_stale(path)
    directory.chmod(0o1777)
    os.chmod(path, 0o777)
    assert raised_by(user, path) == ("PermissionError", errno.EPERM, path)
    assert os.path.exists(path)


@on_linux
def test_on_android_abstract_names_are_those_of_linux(monkeypatch):
    monkeypatch.setattr(sys, "platform", "android")
    unixsock.bind_abstract(f"unixsock-android-{os.getpid()}")[1].close()
