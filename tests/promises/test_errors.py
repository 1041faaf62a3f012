"""Each error can be told from the others, names its path, and leaves nothing behind."""

import copy
import errno
import fcntl
import gc
import io
import os
import pickle
import re
import socket
import sys
from pathlib import Path

import pytest

import unixsock
from children import Child, ChildError
from unixsock import _lock_file

PROTOCOLS = range(pickle.HIGHEST_PROTOCOL + 1)
TELLS_OWNER = os.path.exists("/proc/locks")
# proc_ns.h: the first has this inode.
IN_FIRST_PID_NAMESPACE = TELLS_OWNER and os.stat("/proc/self/ns/pid").st_ino == 0xEFFFFFFC


def standing(directory):
    """What stands in `directory`, the lock file aside: all that could change about it, and what is in it."""
    found = {}
    for path in directory.iterdir():
        if path.name != "a.sock.lock":
            file = path.lstat()
            inside = os.readlink(path) if path.is_symlink() else path.read_bytes() if path.is_file() else None
            found[path.name] = (file.st_ino, file.st_mode, file.st_nlink, file.st_size, file.st_mtime_ns, inside)
    return found


def dead_socket(path):
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(path)


OCCUPANTS = {
    "an empty file": lambda path: Path(path).write_text(""),
    "a file with content": lambda path: Path(path).write_text("precious"),
    "a directory": os.mkdir,
    "a FIFO": os.mkfifo,
    "a link to a live socket": lambda path: os.symlink("live.sock", path),
    "a link to a dead socket": lambda path: os.symlink("dead.sock", path),
    "a link to a file": lambda path: os.symlink("file", path),
    "a link to a directory": lambda path: os.symlink(".", path),
    "a link to nothing": lambda path: os.symlink("nothing", path),
    "a link to itself": lambda path: os.symlink("a.sock", path),
}


@pytest.mark.parametrize("occupant", OCCUPANTS)
def test_what_is_not_a_socket_is_left_alone(directory, path, occupant):
    with socket.socket(socket.AF_UNIX) as live:
        live.bind(str(directory / "live.sock"))
        live.listen()
        dead_socket(str(directory / "dead.sock"))
        (directory / "file").write_text("precious")
        OCCUPANTS[occupant](path)
        before = standing(directory)
        with pytest.raises(FileExistsError, match="not a socket") as refusal:
            unixsock.bind_exclusive(path)
        assert refusal.value.errno == errno.EEXIST
        assert refusal.value.filename == path
        assert standing(directory) == before


@pytest.mark.parametrize("kind", ["relative", "absolute"])
def test_the_second_owner_is_told_who_took_the_address(directory, path, monkeypatch, kind):
    given = path if kind == "absolute" else "a.sock"
    with Child() as owner:
        monkeypatch.chdir(directory)
        owner.do("sock, guard = unixsock.bind_exclusive(path)", path=path)
        before = standing(directory)
        with pytest.raises(unixsock.AddressInUseError, match="taken by") as refusal:
            unixsock.bind_exclusive(given)
        assert refusal.value.errno == errno.EADDRINUSE
        assert refusal.value.filename == path
        if TELLS_OWNER:
            assert refusal.value.owner_pid == owner.pid
            assert re.search(rf"\b{owner.pid}\b", refusal.value.strerror)
        assert standing(directory) == before
        owner.do("guard.close()")


def test_the_second_guard_of_one_process_is_refused_too(directory, path):
    with unixsock.bind_exclusive(path)[1] as guard:
        with pytest.raises(unixsock.AddressInUseError) as refusal:
            unixsock.bind_exclusive(os.fsencode(path))
        assert refusal.value.filename == path
        assert refusal.value.owner_pid == (os.getpid() if TELLS_OWNER else None)
        assert not guard.closed
    assert os.listdir(directory) == ["a.sock.lock"]


def test_the_owner_is_who_took_the_lock_also_when_only_a_fork_of_it_holds_on(path):
    with Child() as taker:
        taker.do("sock, guard = unixsock.bind_exclusive(path)", path=path)
        with taker.fork():
            taker.kill()
            with pytest.raises(unixsock.AddressInUseError) as refusal:
                unixsock.bind_exclusive(path)
            # In a pid namespace other than the first, a process that has ended has no number any more.
            assert refusal.value.owner_pid == (taker.pid if TELLS_OWNER and IN_FIRST_PID_NAMESPACE else None)


def test_a_refusal_shows_no_trace_of_how_it_was_found_out(path):
    with unixsock.bind_exclusive(path)[1], pytest.raises(unixsock.AddressInUseError) as refusal:
        unixsock.bind_exclusive(path)
    assert refusal.value.__cause__ is None
    assert refusal.value.__suppress_context__


def test_where_the_system_does_not_tell_the_owner_the_refusal_says_so(path, monkeypatch):
    def no_such_table(name, *mode):
        raise FileNotFoundError(errno.ENOENT, "No such file", name)

    monkeypatch.setattr(_lock_file, "open", no_such_table, raising=False)
    with unixsock.bind_exclusive(path)[1], pytest.raises(unixsock.AddressInUseError, match="another") as refusal:
        unixsock.bind_exclusive(path)
    assert refusal.value.owner_pid is None


# Lines of proc(5)'s /proc/locks about the lock file, but the last two: those are about another on the same device.
OTHER_LOCKS = [
    "DELEG  ACTIVE    READ  4241 {device}:{inode}",
    "POSIX  ADVISORY  WRITE 4241 {device}:{inode}",
    "-> FLOCK  ADVISORY  WRITE 4241 {device}:{inode}",
    "FLOCK  ADVISORY  WRITE 4241 {device}:{inode}0",
    "FLOCK  ADVISORY  WRITE 4241 {device}:1{inode}",
]


def owner_by(monkeypatch, path, *lines):
    """The owner that a refusal names where the system's table has these lines."""
    with unixsock.bind_exclusive(path)[1] as guard, pytest.raises(unixsock.AddressInUseError) as refusal:
        file = os.stat(guard.lock_path)
        device = f"{os.major(file.st_dev):02x}:{os.minor(file.st_dev):02x}"
        text = "".join(f"{n}: {line} 0 EOF\n".format(device=device, inode=file.st_ino) for n, line in enumerate(lines))
        monkeypatch.setattr(_lock_file, "open", lambda *_: io.BytesIO(text.encode()), raising=False)
        unixsock.bind_exclusive(path)
    return refusal.value.owner_pid


@pytest.mark.parametrize("other", OTHER_LOCKS)
def test_a_lock_of_another_kind_or_on_another_file_does_not_make_an_owner(path, monkeypatch, other):
    elsewhere = "FLOCK  ADVISORY  WRITE 4240 00:00:0"
    ours = "FLOCK  ADVISORY  WRITE 4242 {device}:{inode}"
    assert owner_by(monkeypatch, path, elsewhere, other, ours) == 4242
    assert owner_by(monkeypatch, path, elsewhere, other) is None


def test_a_taker_that_has_no_pid_here_is_not_named(path, monkeypatch):
    assert owner_by(monkeypatch, path, "FLOCK  ADVISORY  WRITE 0 {device}:{inode}") is None


def test_a_live_server_without_the_lock_keeps_its_name_and_the_lock_is_not_blamed(directory, path, monkeypatch):
    monkeypatch.chdir(directory)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path)
        server.listen()
        before = standing(directory)
        with pytest.raises(unixsock.AddressInUseError, match="a socket is still bound") as refusal:
            unixsock.bind_exclusive("a.sock")
        assert refusal.value.errno == errno.EADDRINUSE
        assert refusal.value.filename == path
        assert refusal.value.owner_pid is None
        assert standing(directory) == before


def test_a_missing_directory_is_the_systems_own_error(directory):
    with pytest.raises(FileNotFoundError) as refusal:
        unixsock.bind_exclusive(directory / "missing" / "a.sock")
    assert refusal.value.filename == str(directory / "missing" / "a.sock")
    assert os.listdir(directory) == []


def test_a_file_in_place_of_the_directory_is_the_systems_own_error(directory):
    (directory / "file").write_text("precious")
    before = standing(directory)
    with pytest.raises(NotADirectoryError) as refusal:
        unixsock.bind_exclusive(directory / "file" / "a.sock")
    assert refusal.value.filename == str(directory / "file" / "a.sock")
    assert standing(directory) == before


REFUSED = """
def refused(path):
    before = len(os.listdir("/dev/fd"))
    try:
        unixsock.bind_exclusive(path)
    except OSError as error:
        assert len(os.listdir("/dev/fd")) == before
        return [error.errno, error.filename]
"""


@pytest.fixture
def user(user):
    user.do(REFUSED)
    return user


def test_a_directory_that_may_not_be_written_is_the_systems_own_error(directory, path, user):
    directory.chmod(0o555)
    assert user.value("refused(path)", path=path) == [errno.EACCES, path + ".lock"]
    assert os.listdir(directory) == []


def test_a_name_that_may_not_be_made_beside_a_lock_that_may_be_taken_names_the_socket(directory, path, user):
    open(path + ".lock", "w").close()
    os.chmod(path + ".lock", 0o666)
    directory.chmod(0o555)
    try:
        assert user.value("refused(path)", path=path) == [errno.EACCES, path]
        assert os.listdir(directory) == ["a.sock.lock"]
        with open(path + ".lock") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    finally:
        directory.chmod(0o755)


def test_whether_a_socket_is_dead_is_not_guessed_where_it_may_not_be_asked(directory, path, user):
    dead_socket(path)
    os.chmod(path, 0o500)
    before = standing(directory)
    directory.chmod(0o777)
    assert user.value("refused(path)", path=path) == [errno.EACCES, path]
    assert standing(directory) == before


@pytest.mark.skipif(sys.platform != "linux", reason="mounts in a namespace of its own")
def test_a_read_only_filesystem_is_the_systems_own_error(directory, path):
    with Child() as child:
        if not child.do(MOUNTED_READ_ONLY, directory=str(directory)):
            pytest.skip("may not mount here, not even in a namespace")
        child.do(REFUSED)
        assert child.value("refused(path)", path=path) == [errno.EROFS, path + ".lock"]


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
def test_where_there_are_no_locks_no_weaker_kind_is_tried(directory, path, monkeypatch, code):
    def failing(*arguments):
        raise OSError(code, os.strerror(code))

    def weaker(*arguments):
        pytest.fail("tried another kind of lock")

    monkeypatch.setattr(fcntl, "flock", failing)
    monkeypatch.setattr(fcntl, "lockf", weaker)
    monkeypatch.setattr(fcntl, "fcntl", weaker)
    monkeypatch.setattr(os, "lockf", weaker, raising=False)
    dead_socket(path)
    before = standing(directory)
    with pytest.raises(OSError, match=re.escape(os.strerror(code))) as refusal:
        unixsock.bind_exclusive(path)
    assert not isinstance(refusal.value, unixsock.AddressInUseError)
    assert refusal.value.errno == code
    assert refusal.value.filename == path + ".lock"
    assert standing(directory) == before


@pytest.mark.parametrize(("owner", "call"), [(os, "fstat"), (socket.socket, "bind"), (socket.socket, "listen")])
def test_a_call_that_names_no_path_does_so_here(directory, path, monkeypatch, owner, call):
    def failing(*arguments):
        raise OSError(errno.ENOBUFS, "No buffers")

    with pytest.raises(OSError, match="No buffer") as refusal, monkeypatch.context() as patch:
        patch.setattr(owner, call, failing)
        unixsock.bind_exclusive(path)
    assert refusal.value.errno == errno.ENOBUFS
    assert refusal.value.filename == (path + ".lock" if call == "fstat" else path)
    assert os.listdir(directory) == ["a.sock.lock"]


def test_what_a_signal_handler_raises_meanwhile_is_left_as_it_is(directory, path, monkeypatch):
    def interrupted(name):
        raise TimeoutError("too slow")

    with pytest.raises(TimeoutError) as refusal, monkeypatch.context() as patch:
        patch.setattr(os, "lstat", interrupted)
        unixsock.bind_exclusive(path)
    assert str(refusal.value) == "too slow"
    assert os.listdir(directory) == ["a.sock.lock"]


def refusal_of(path, owner):
    return unixsock.AddressInUseError(errno.EADDRINUSE, "taken by somebody", path, owner_pid=owner)


COPIES = [copy.copy, copy.deepcopy]
COPIES += [lambda error, protocol=protocol: pickle.loads(pickle.dumps(error, protocol)) for protocol in PROTOCOLS]


@pytest.mark.parametrize("copied", COPIES)
@pytest.mark.parametrize("owner", [4242, None])
def test_a_refusal_survives_pickle_and_copy_with_its_owner(copied, owner):
    error = refusal_of("/run/a.sock", owner)
    other = copied(error)
    assert type(other) is unixsock.AddressInUseError
    assert (other.errno, other.strerror, other.filename) == (errno.EADDRINUSE, "taken by somebody", "/run/a.sock")
    assert other.owner_pid == owner
    assert str(other) == str(error)


COPIERS = [copy.copy, copy.deepcopy]
COPIERS += [lambda guard, protocol=protocol: pickle.dumps(guard, protocol) for protocol in PROTOCOLS]


@pytest.mark.parametrize("copied", COPIERS)
def test_a_guard_can_be_neither_pickled_nor_copied(path, copied):
    with unixsock.bind_exclusive(path)[1] as guard:
        with pytest.raises(TypeError, match="neither pickled nor copied"):
            copied(guard)
        assert not guard.closed
        fcntl.fcntl(guard.fileno(), fcntl.F_GETFD)  # still open


def test_a_guard_is_not_shipped_to_a_spawned_process(path):
    with Child() as parent:  # multiprocessing leaves a tracker of its resources behind
        parent.do("sock, guard = unixsock.bind_exclusive(path)", path=path)
        parent.do("import multiprocessing; spawn = multiprocessing.get_context('spawn')")
        with pytest.raises(ChildError, match="neither pickled nor copied") as refusal:
            parent.do("spawn.Process(target=print, args=(guard,)).start()")
        assert refusal.value.kind == "TypeError"
        parent.do("guard.close()")


def test_a_guard_cannot_be_made_by_hand_and_its_attempt_is_not_finalised(monkeypatch):
    noise = []
    monkeypatch.setattr(sys, "unraisablehook", noise.append)
    with pytest.raises(TypeError, match="argument"):
        unixsock.Guard()
    gc.collect()
    assert noise == []
