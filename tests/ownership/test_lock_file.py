"""The lock is on the file that stands at the lock path, whatever happens to that file, and nothing happens to it."""

import errno
import os
import socket

import pytest

import unixsock
from children import Child, ChildError
from observed import (
    BIND,
    BOUND,
    ODD_FILES,
    as_root,
    expect_refusal,
    leave_stale,
    on_linux,
    raised_by,
    reaches,
    snapshot,
    start_and_close,
)
from system_calls import before

# What open(2) says of a link and of what cannot be opened for writing, on Linux, macOS and the BSDs; EINVAL is ours.
# FreeBSD says EMLINK of a link, and NetBSD EFTYPE, which is 79, and for which Python has no name.
WRONG_KIND = {errno.ELOOP, errno.EMLINK, 79, errno.EISDIR, errno.ENXIO, errno.EOPNOTSUPP, errno.EACCES, errno.EINVAL}


@pytest.fixture
def lock_path(path):
    return path + ".lock"


def in_place(guard):
    """Whether the lock is on the file that stands at the lock path."""
    return os.path.lexists(guard.lock_path) and os.path.samestat(os.fstat(guard.fileno()), os.lstat(guard.lock_path))


def removed(lock_path):
    os.unlink(lock_path)


def replaced(lock_path):
    os.unlink(lock_path)
    open(lock_path, "x").close()


each_way = pytest.mark.parametrize("gone", [removed, replaced])


@each_way
def test_without_its_lock_file_a_live_server_still_keeps_its_path(directory, path, lock_path, gone):
    sock, guard = unixsock.bind_exclusive(path)
    with guard:
        gone(lock_path)
        expect_refusal(path, BOUND)
        assert reaches(path, sock)
    assert os.listdir(directory) == ["a.sock.lock"]


@each_way
def test_a_lock_on_a_file_that_went_before_flock_is_not_taken_for_the_lock(path, lock_path, gone):
    with before("fcntl.flock", lambda _: gone(lock_path), times=3):
        _, guard = unixsock.bind_exclusive(path)
    with guard:
        assert in_place(guard)
        expect_refusal(path)


def test_a_link_to_the_lock_that_is_put_in_its_place_before_flock_is_not_followed(directory, path, lock_path):
    def link(_):
        os.rename(lock_path, directory / "elsewhere")
        os.symlink("elsewhere", lock_path)

    with before("fcntl.flock", link), pytest.raises(OSError, match=r"a\.sock\.lock") as refusal:
        unixsock.bind_exclusive(path)
    assert refusal.value.errno in WRONG_KIND
    assert not os.path.exists(path)


def test_who_loses_the_race_to_make_the_lock_file_locks_the_winners(path, lock_path):
    made = []

    def make(call):
        if call.args[1] & os.O_CREAT:
            open(lock_path, "x").close()
            made.append(os.stat(lock_path).st_ino)

    with before("os.open", make, times=2):
        _, guard = unixsock.bind_exclusive(path)
    with guard:
        assert in_place(guard)
        assert made == [os.fstat(guard.fileno()).st_ino]


@pytest.mark.parametrize(("gone", "rounds"), [(removed, 100), (replaced, 10_000)])
def test_a_hundred_tries_are_made_to_lock_a_file_that_stays(path, lock_path, gone, rounds):
    with before("fcntl.flock", lambda _: gone(lock_path), times=99):
        start_and_close(path)
    never_stays = before("fcntl.flock", lambda _: gone(lock_path), times=rounds)
    with never_stays, pytest.raises(OSError, match="keeps being removed") as refusal:
        unixsock.bind_exclusive(path)
    assert (refusal.value.errno, refusal.value.filename) == (errno.EBUSY, lock_path)
    assert not os.path.exists(path)


PLANTED = {**ODD_FILES, "a socket": (leave_stale, "a socket")}


@pytest.mark.parametrize("planted", PLANTED)
def test_what_is_planted_at_the_lock_path_is_named_and_refused_at_once(directory, path, lock_path, planted):
    make, kind = PLANTED[planted]
    (directory / "file").write_text("precious")
    make(lock_path)
    unchanged = snapshot(directory), os.lstat(lock_path)
    with pytest.raises(OSError, match=f"lock file is {kind}, .*; move it or use another path") as refusal:
        unixsock.bind_exclusive(path)
    assert refusal.value.errno in WRONG_KIND
    assert refusal.value.filename == lock_path
    assert (snapshot(directory), os.lstat(lock_path)) == unchanged


def test_the_lock_file_is_never_written_re_moded_or_unlinked(path, lock_path):
    with open(lock_path, "w") as file:
        file.write("somebody's notes")
    os.chmod(lock_path, 0o640)
    unchanged = snapshot(lock_path)
    with unixsock.bind_exclusive(path, mode=0o666)[1]:
        expect_refusal(path)
    with Child() as owner:
        owner.do(BIND, path=path)
        owner.kill()
    start_and_close(path)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path)
        expect_refusal(path, BOUND)
    assert snapshot(lock_path) == unchanged
    with open(lock_path) as file:
        assert file.read() == "somebody's notes"


def test_a_lock_file_that_exists_is_opened_without_o_creat(path, lock_path):
    def asked(call):
        if call.args[0] == lock_path:
            flags.append(call.args[1])

    flags = []
    with before("os.open", asked, times=5):
        start_and_close(path)
        start_and_close(path)
    usual = flags[0]
    # Missing, made, opened again by the close; then by the next call and its close.
    assert flags == [usual, usual | os.O_CREAT | os.O_EXCL, usual, usual, usual]
    assert not usual & (os.O_CREAT | os.O_TRUNC)


@as_root
def test_another_users_lock_file_serves_in_a_sticky_directory(directory, path, lock_path):
    # Where fs.protected_regular is on, O_CREAT fails there with EACCES, for root too.
    open(lock_path, "x").close()
    os.chmod(lock_path, 0o666)
    os.chown(lock_path, 65534, 65534)
    os.chown(directory, 65533, 65533)
    directory.chmod(0o1777)
    with unixsock.bind_exclusive(path)[1] as guard:
        assert in_place(guard)


def test_a_lock_file_without_permission_is_an_error_that_names_it(directory, path, lock_path, user):
    open(lock_path, "x").close()
    os.chmod(lock_path, 0)
    directory.chmod(0o777)
    assert raised_by(user, path) == ("PermissionError", errno.EACCES, lock_path)
    assert os.listdir(directory) == ["a.sock.lock"]


@on_linux
def test_a_lease_on_the_lock_file_counts_as_taken(path, lock_path):
    open(lock_path, "x").close()
    with Child() as holder:
        # The kernel tells a holder by SIGIO that somebody wants in, and makes an open() that may wait do so.
        holder.do("signal.signal(signal.SIGIO, signal.SIG_IGN); import fcntl; file = open(path)", path=lock_path)
        try:
            holder.do("fcntl.fcntl(file, 1024, fcntl.F_WRLCK)")  # F_SETLEASE
        except ChildError as error:
            pytest.skip(f"no leases on this filesystem: {error}")
        assert expect_refusal(path, "taken by another").owner_pid is None
        holder.kill()
    start_and_close(path)
