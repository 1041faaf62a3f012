"""The lock is on the file that stands at the lock path, whatever happens to that file, and nothing happens to it."""

import errno
import fcntl
import os
import socket
import stat
import sys

import pytest

import unixsock
from children import Child, ChildError

# What open(2) says of a link and of what cannot be opened for writing, on Linux, macOS and the BSDs; EINVAL is ours.
WRONG_KIND = {errno.ELOOP, errno.EMLINK, errno.EISDIR, errno.ENXIO, errno.EOPNOTSUPP, errno.EACCES, errno.EINVAL}


@pytest.fixture
def lock_path(path):
    return path + ".lock"


def in_place(guard):
    """Whether the lock is on the file that stands at the lock path."""
    return os.path.samestat(os.fstat(guard.fileno()), os.lstat(guard.lock_path))


def removed(lock_path):
    os.unlink(lock_path)


def replaced(lock_path):
    os.unlink(lock_path)
    open(lock_path, "x").close()


def before_flock(monkeypatch, happens, rounds):
    """Let `happens` happen between the open and the flock of that many rounds."""
    flock = fcntl.flock
    left = [happens] * rounds

    def hook(descriptor, operation):
        if left:
            left.pop()()
        flock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", hook)
    return left


@pytest.mark.parametrize("gone", [removed, replaced])
def test_without_its_lock_file_a_live_server_still_keeps_its_name(directory, path, lock_path, gone):
    sock, guard = unixsock.bind_exclusive(path)
    with guard, socket.socket(socket.AF_UNIX) as client:
        gone(lock_path)
        with pytest.raises(unixsock.AddressInUseError, match="a socket is still bound") as refusal:
            unixsock.bind_exclusive(path)
        assert refusal.value.owner_pid is None
        client.connect(path)
        sock.accept()[0].close()
    assert os.listdir(directory) == ["a.sock.lock"]


def test_close_makes_no_lock_file(directory, path, lock_path):
    _, guard = unixsock.bind_exclusive(path)
    os.unlink(lock_path)
    guard.close()
    assert os.listdir(directory) == ["a.sock"]


@pytest.mark.parametrize("gone", [removed, replaced])
def test_a_lock_on_a_file_that_went_before_flock_is_not_taken_for_the_lock(path, lock_path, gone, monkeypatch):
    left = before_flock(monkeypatch, lambda: gone(lock_path), rounds=3)
    with unixsock.bind_exclusive(path)[1] as guard:
        assert not left
        assert in_place(guard)
        with pytest.raises(unixsock.AddressInUseError):
            unixsock.bind_exclusive(path)


def test_a_link_to_the_lock_that_is_put_in_its_place_before_flock_is_not_followed(directory, path, monkeypatch):
    def linked():
        os.rename(path + ".lock", directory / "elsewhere")
        os.symlink("elsewhere", path + ".lock")

    before_flock(monkeypatch, linked, rounds=1)
    with pytest.raises(OSError, match=r"a\.sock\.lock") as refusal:
        unixsock.bind_exclusive(path)
    assert refusal.value.errno in WRONG_KIND
    assert not os.path.exists(path)


def test_who_loses_the_race_to_make_the_lock_file_locks_the_winners(path, lock_path, monkeypatch):
    real = os.open
    made = []

    def slow(name, flags, *mode):
        if flags & os.O_CREAT:
            open(lock_path, "x").close()
            made.append(os.stat(lock_path).st_ino)
        return real(name, flags, *mode)

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", slow)
        _, guard = unixsock.bind_exclusive(path)
    with guard:
        assert in_place(guard)
        assert made == [os.fstat(guard.fileno()).st_ino]


@pytest.mark.parametrize("gone", [removed, replaced])
def test_a_lock_file_that_never_stays_is_an_error_not_a_hang(directory, path, lock_path, gone, monkeypatch):
    before_flock(monkeypatch, lambda: gone(lock_path), rounds=10_000)
    with pytest.raises(OSError, match="removed or replaced") as refusal:
        unixsock.bind_exclusive(path)
    assert refusal.value.errno == errno.EBUSY
    assert refusal.value.filename == lock_path
    assert not os.path.exists(path)


@pytest.mark.parametrize("rounds", [99, 100])
def test_a_hundred_tries_are_made_to_lock_a_file_that_stays(path, lock_path, rounds, monkeypatch):
    before_flock(monkeypatch, lambda: removed(lock_path), rounds=rounds)
    if rounds < 100:
        unixsock.bind_exclusive(path)[1].close()
    else:
        with pytest.raises(OSError, match="removed or replaced"):
            unixsock.bind_exclusive(path)


def device(lock_path):
    if sys.platform != "linux":
        pytest.skip("other numbers")
    try:
        os.mknod(lock_path, 0o666 | stat.S_IFCHR, os.makedev(1, 3))  # /dev/null
    except PermissionError:
        pytest.skip("may not make a device")


def unbound_socket(lock_path):
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(lock_path)


PLANTED = {
    "a link to a file": lambda lock_path: os.symlink("victim", lock_path),
    "a link to nothing": lambda lock_path: os.symlink("nothing", lock_path),
    "a link to a directory": lambda lock_path: os.symlink(".", lock_path),
    "a link to itself": lambda lock_path: os.symlink("a.sock.lock", lock_path),
    "a FIFO": os.mkfifo,
    "a directory": os.mkdir,
    "a socket": unbound_socket,
    "a device": device,
}


@pytest.mark.parametrize("planted", PLANTED)
def test_what_is_planted_at_the_lock_path_is_refused_at_once(directory, path, lock_path, planted):
    (directory / "victim").write_text("precious")
    PLANTED[planted](lock_path)
    victim, plant = os.lstat(directory / "victim"), os.lstat(lock_path)
    with pytest.raises(OSError, match=r"a\.sock\.lock") as refusal:
        unixsock.bind_exclusive(path)
    assert refusal.value.errno in WRONG_KIND
    assert refusal.value.filename == lock_path
    assert sorted(os.listdir(directory)) == ["a.sock.lock", "victim"]
    assert unchanged(victim, os.lstat(directory / "victim"))
    assert unchanged(plant, os.lstat(lock_path))


def unchanged(before, after):
    return all(
        getattr(before, name) == getattr(after, name)
        for name in ("st_dev", "st_ino", "st_mode", "st_nlink", "st_uid", "st_gid", "st_size", "st_mtime", "st_ctime")
    )


def test_the_lock_file_is_never_written_re_moded_or_unlinked(directory, path, lock_path):
    with open(lock_path, "w") as file:
        file.write("somebody's notes")
    os.chmod(lock_path, 0o640)
    before = os.lstat(lock_path)

    with unixsock.bind_exclusive(path, mode=0o666)[1], pytest.raises(unixsock.AddressInUseError):
        unixsock.bind_exclusive(path)
    assert unchanged(before, os.lstat(lock_path))

    with Child() as owner:
        owner.do("held = unixsock.bind_exclusive(path)", path=path)
        owner.kill()
    unixsock.bind_exclusive(path)[1].close()
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path)
        with pytest.raises(unixsock.AddressInUseError):
            unixsock.bind_exclusive(path)
    assert unchanged(before, os.lstat(lock_path))
    with open(lock_path) as file:
        assert file.read() == "somebody's notes"


def test_a_lock_file_that_exists_is_opened_without_o_creat(path, lock_path, monkeypatch):
    real = os.open
    asked = []

    def watched(name, flags, *mode):
        if name == lock_path:
            asked.append(flags)
        return real(name, flags, *mode)

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", watched)
        unixsock.bind_exclusive(path)[1].close()
        usual = asked[0]
        assert asked == [usual, usual | os.O_CREAT | os.O_EXCL, usual]  # missing, made, and opened again by close
        asked.clear()
        unixsock.bind_exclusive(path)[1].close()
        assert len(asked) == 2
        assert not any(flags & (os.O_CREAT | os.O_TRUNC) for flags in asked)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs a file of another user")
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
    assert user.do(NAMED_BY_REFUSAL, path=path) == lock_path
    assert os.listdir(directory) == ["a.sock.lock"]


NAMED_BY_REFUSAL = """
try:
    unixsock.bind_exclusive(path)
except PermissionError as error:
    _ = error.filename
"""


@pytest.mark.skipif(sys.platform != "linux", reason="no leases here")
def test_a_lease_on_the_lock_file_counts_as_taken(path, lock_path):
    open(lock_path, "x").close()
    with Child() as holder:
        # The kernel tells a holder by SIGIO that somebody wants in, and makes an open() that may wait do so.
        holder.do("signal.signal(signal.SIGIO, signal.SIG_IGN); import fcntl; file = open(path)", path=lock_path)
        try:
            holder.do("fcntl.fcntl(file, 1024, fcntl.F_WRLCK)")  # F_SETLEASE
        except ChildError as error:
            pytest.skip(f"no leases on this filesystem: {error}")
        with pytest.raises(unixsock.AddressInUseError, match="taken by another") as refusal:
            unixsock.bind_exclusive(path)
        assert refusal.value.owner_pid is None
        holder.kill()
    unixsock.bind_exclusive(path)[1].close()
