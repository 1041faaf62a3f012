"""The socket file gets exactly the bits that were asked for, at no moment looser ones, and nothing else does."""

import contextlib
import ctypes
import errno
import itertools
import os
import re
import shutil
import socket
import sys
import threading

import pytest

import unixsock
from children import PATIENCE
from observed import OTHER_GROUP, TYPES, each_type, imported_anew, leave_stale, mode_of, on_linux, raised_by
from system_calls import after, before, fails_with, instead, intercepted

STREAMS = sorted(set(TYPES) - {socket.SOCK_DGRAM})


@pytest.fixture(params=[0o000, 0o022, 0o077], ids=oct)
def umask(request):
    usual = os.umask(request.param)
    yield request.param
    os.umask(usual)


narrow_umask = pytest.mark.parametrize("umask", [0o077], indirect=True)  # so that there is something to change


@each_type
@pytest.mark.parametrize("mode", [0o600, 0o660, 0o666, 0o777, 0o200, 0o246], ids=oct)
def test_the_mode_is_exact_whatever_the_umask(path, umask, mode, kind):
    with unixsock.bind_exclusive(path, mode=mode, type=kind)[1] as guard:
        assert mode_of(path) == mode
        assert mode_of(guard.lock_path) == 0o600


@each_type
def test_without_a_mode_the_bits_are_those_that_bind_gives(directory, path, umask, kind):
    with unixsock.bind_exclusive(path, type=kind)[1], socket.socket(socket.AF_UNIX, kind) as plain:
        plain.bind(str(directory / "plain.sock"))
        assert mode_of(path) == mode_of(directory / "plain.sock") == 0o777 & ~umask


def test_the_umask_belongs_to_the_process_and_is_never_touched(path, umask):
    with before("os.umask", lambda call: pytest.fail(f"made the call {call}")):
        unixsock.bind_exclusive(path, mode=0o606)[1].close()
        unixsock.bind_exclusive(path)[1].close()
    assert os.umask(umask) == umask


@on_linux
@each_type
@pytest.mark.parametrize("mode", [0o600, 0o660, 0o777], ids=oct)
def test_at_no_moment_are_the_bits_looser(path, umask, mode, kind):
    # A datagram socket receives from its bind on, so that this is its only protection.
    def look(call):
        seen.add(mode_of(path))
        return call.run()

    seen = set()
    with intercepted(look):
        unixsock.bind_exclusive(path, mode=mode, type=kind)[1].close()
    assert seen == {None, mode & ~umask, mode}


@pytest.mark.parametrize("kind", STREAMS)
@narrow_umask
def test_until_it_has_its_mode_a_socket_that_listens_refuses_every_client(path, umask, kind):
    def knock(call):
        if mode_of(path) is not None:
            with socket.socket(socket.AF_UNIX, kind) as client:
                answers.append((client.connect_ex(path), mode_of(path)))
        return call.run()

    answers = []
    with intercepted(knock):
        _, guard = unixsock.bind_exclusive(path, mode=0o666, type=kind)
    with guard, socket.socket(socket.AF_UNIX, kind) as client:
        client.connect(path)
    assert (errno.ECONNREFUSED, 0o600) in answers
    assert {mode for answer, mode in answers if answer != errno.ECONNREFUSED} <= {0o666}


@each_type
def test_where_a_socket_has_no_mode_of_its_own_its_file_gets_it_all_the_same(path, umask, kind):
    # As macOS and the BSDs answer.
    with instead("os.fchmod", fails_with(errno.EINVAL)), unixsock.bind_exclusive(path, mode=0o640, type=kind)[1]:
        assert mode_of(path) == 0o640


@pytest.fixture(params=["file", "socket"])
def victim(request, directory):
    """A file, or a stale socket file, that the call has nothing to do with."""
    path = directory / "victim"
    if request.param == "file":
        path.write_text("secret")
    else:
        leave_stale(path)
    path.chmod(0o640)
    return path


@on_linux
@pytest.mark.parametrize(
    ("victim", "as_link"), [("file", True), ("socket", True), ("file", False)], indirect=["victim"]
)
def test_what_stands_in_place_of_the_socket_file_after_bind_is_refused(path, victim, as_link):
    def plant(call):
        os.unlink(path)
        os.symlink(victim, path) if as_link else os.rename(victim, path)

    with after("socket.bind", plant), pytest.raises(FileExistsError, match="not a socket") as refusal:
        unixsock.bind_exclusive(path, mode=0o777)  # the bits of every link
    assert (refusal.value.errno, refusal.value.filename) == (errno.EEXIST, path)
    assert os.path.islink(path) == as_link


PLANTS = {"a link": os.symlink, "a hard link": os.link, "a file": shutil.move}


@on_linux
@narrow_umask
@pytest.mark.parametrize("plant", PLANTS)
def test_a_file_that_is_planted_at_any_call_after_bind_keeps_its_group_and_mode(directory, path, umask, plant):
    def plant_at_step(call):
        if "socket.listen" not in calls and (calls or call.name == "socket.bind"):
            calls.append(call.name)
            if len(calls) - 1 == step and step:
                os.unlink(path)
                PLANTS[plant](victim, path)
        return call.run()

    calls = ["more"]
    for step in itertools.count():
        victim = str(directory / f"victim{step}")
        with open(victim, "x") as file:
            os.fchmod(file.fileno(), 0o640)
            unchanged = os.fstat(file.fileno())
            calls = []
            with intercepted(plant_at_step), contextlib.suppress(OSError):
                unixsock.bind_exclusive(path, mode=0o666, group=OTHER_GROUP)[1].close()
            found = os.fstat(file.fileno())
            assert (found.st_mode, found.st_gid) == (unchanged.st_mode, unchanged.st_gid)
        if os.path.lexists(path):
            os.unlink(path)
        if len(calls) <= step:
            break
    assert step > 8


@narrow_umask
@pytest.mark.parametrize("system", ["darwin", "openbsd7"])
def test_elsewhere_than_on_linux_chmod_is_told_not_to_follow_a_link(path, umask, system, monkeypatch):
    asked = []

    def chmod(call):
        asked.append((*call.args, call.kwargs))
        os.chmod(path, 0o666)

    with instead("os.chmod", chmod), monkeypatch.context() as patch:
        patch.setattr(sys, "platform", system)
        unixsock.bind_exclusive(path, mode=0o666)[1].close()
    assert asked == [(path, 0o666, {"follow_symlinks": False})]


@on_linux
@pytest.mark.parametrize("umask", [0o000], indirect=True)
def test_a_mode_that_is_right_at_once_is_not_set_again(path, umask):
    with before("os.chmod", lambda call: pytest.fail(f"made the call {call}")):
        unixsock.bind_exclusive(path, mode=0o660)[1].close()


@on_linux
@narrow_umask
def test_where_python_has_no_name_for_o_path_it_has_the_same_number(path, umask, monkeypatch):
    def flags(package):
        opened = []
        note = before("os.open", lambda call: opened.append(call.args), times=9)
        with note, package.bind_exclusive(path, mode=0o666)[1]:
            assert mode_of(path) == 0o666
        return [args[1] for args in opened if args[0] == path]

    usual = flags(unixsock)
    assert usual
    with monkeypatch.context() as patch:
        patch.delattr(os, "O_PATH", raising=False)
        assert flags(imported_anew(patch)) == usual


@pytest.mark.parametrize(("umask", "bits", "mode"), [(0o077, 0o700, 0o777), (0o000, 0o777, 0o600)], indirect=["umask"])
def test_bits_that_did_not_take_are_an_error_that_names_both_modes(directory, path, umask, bits, mode):
    with (
        instead("os.fchmod", fails_with(errno.EINVAL)),
        instead("os.chmod", lambda _: None),
        pytest.raises(PermissionError, match=f"{bits:#o}, not {mode:#o}") as refusal,
    ):
        unixsock.bind_exclusive(path, mode=mode)
    assert (refusal.value.errno, refusal.value.filename) == (errno.EPERM, path)
    assert os.listdir(directory) == ["a.sock.lock"]


@on_linux
@narrow_umask
def test_in_a_thread_with_descriptors_of_its_own_no_other_file_gets_the_mode(path, directory, umask):
    def start():
        clone_files = 0x400
        assert ctypes.CDLL(None).unshare(clone_files) == 0
        unshared.set()
        assert filled.wait(PATIENCE)
        with unixsock.bind_exclusive(path, mode=0o666)[1]:
            modes.append(mode_of(path))

    modes = []
    unshared, filled = threading.Event(), threading.Event()
    victim = directory / "victim"
    victim.touch(0o600)
    thread = threading.Thread(target=start)
    thread.start()
    assert unshared.wait(PATIENCE)
    with contextlib.ExitStack() as stack:
        for _ in range(8):  # the numbers that the thread's descriptors are going to have
            stack.enter_context(open(victim))
        filled.set()
        thread.join()
    assert (modes, mode_of(victim)) == ([0o666], 0o600)


@on_linux
@narrow_umask
def test_without_proc_the_error_says_what_is_missing(directory, path, umask):
    words = r"mode cannot be set: mount /proc"
    with instead("os.chmod", fails_with(errno.ENOENT)), pytest.raises(FileNotFoundError, match=words) as refusal:
        unixsock.bind_exclusive(path, mode=0o666)
    assert refusal.value.filename == path
    assert os.listdir(directory) == ["a.sock.lock"]


@on_linux
@narrow_umask
def test_a_socket_file_that_is_gone_before_it_has_its_mode_is_the_systems_own_error(directory, path, umask):
    with (
        after("socket.bind", lambda _: os.unlink(path)),
        pytest.raises(FileNotFoundError, match=re.escape(os.strerror(errno.ENOENT))) as refusal,
    ):
        unixsock.bind_exclusive(path, mode=0o666)
    assert refusal.value.filename == path
    assert "/proc" not in str(refusal.value)
    assert os.listdir(directory) == ["a.sock.lock"]


@pytest.mark.parametrize("mode", [0o600, 0o200], ids=oct)
def test_an_ordinary_user_gets_the_mode_too_and_clears_the_stale_socket_file_after_a_crash(directory, path, user, mode):
    directory.chmod(0o777)
    bind = "sock, guard = unixsock.bind_exclusive(path, mode=mode)"
    with user.fork() as first:
        first.do(bind, path=path, mode=mode)
        assert mode_of(path) == mode
        first.kill()
    assert os.path.exists(path)
    user.do(bind, path=path, mode=mode)
    assert mode_of(path) == mode
    user.do("guard.close()")
    assert not os.path.exists(path)


def test_a_umask_that_takes_owner_write_away_makes_the_next_bind_fail_at_the_lock_file(directory, path, user):
    directory.chmod(0o777)
    user.do("os.umask(0o277)")
    with user.fork() as first:
        first.do("held = unixsock.bind_exclusive(path)", path=path)
        first.kill()
    assert raised_by(user, path) == ("PermissionError", errno.EACCES, path + ".lock")
