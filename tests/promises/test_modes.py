"""The socket file gets exactly the bits that were asked for, at no moment looser ones, and nothing else does."""

import errno
import os
import runpy
import socket
import stat
import sys

import pytest

import unixsock
from unixsock import _bind

TYPES = [socket.SOCK_STREAM, socket.SOCK_DGRAM]
if sys.platform != "darwin":  # which has no Unix-domain seqpacket sockets
    TYPES.append(socket.SOCK_SEQPACKET)

each_type = pytest.mark.parametrize("kind", TYPES, ids=lambda kind: kind.name)
on_linux = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a socket has no mode before it has a name")


@pytest.fixture(params=[0o000, 0o022, 0o077], ids=oct)
def umask(request):
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def bits(path):
    return stat.S_IMODE(os.lstat(path).st_mode)


def between_bind_and_chmod(monkeypatch, happens):
    """Let `happens(path)` happen when the socket has its name and not yet its mode."""
    set_mode = _bind.set_mode

    def hook(path, mode):
        happens(path)
        set_mode(path, mode)

    monkeypatch.setattr(_bind, "set_mode", hook)


@each_type
@pytest.mark.parametrize("mode", [0o600, 0o660, 0o666, 0o777, 0o200, 0o246], ids=oct)
def test_the_mode_is_exact_whatever_the_umask(path, umask, mode, kind):
    with unixsock.bind_exclusive(path, mode=mode, type=kind)[1]:
        assert bits(path) == mode


@each_type
def test_without_a_mode_the_bits_are_those_that_bind_gives(directory, path, umask, kind):
    with unixsock.bind_exclusive(path, type=kind)[1], socket.socket(socket.AF_UNIX, kind) as plain:
        plain.bind(str(directory / "plain.sock"))
        assert bits(path) == bits(directory / "plain.sock") == 0o777 & ~umask


def test_the_mode_is_that_of_the_socket_not_of_the_lock_file(path, umask):
    with unixsock.bind_exclusive(path, mode=0o666)[1] as guard:
        assert bits(guard.lock_path) == 0o600


def test_the_umask_belongs_to_the_process_and_is_never_touched(path, umask, monkeypatch):
    def touched(mask):
        pytest.fail(f"set the umask to {mask:#o}")

    with monkeypatch.context() as patch:
        patch.setattr(os, "umask", touched)
        unixsock.bind_exclusive(path, mode=0o606)[1].close()
        unixsock.bind_exclusive(path)[1].close()
    assert os.umask(umask) == umask


@on_linux
@each_type
@pytest.mark.parametrize("mode", [0o600, 0o660, 0o777], ids=oct)
def test_at_no_moment_are_the_bits_looser(path, umask, mode, kind, monkeypatch):
    # A datagram socket receives from its bind on, so that this is its only protection.
    seen = []
    between_bind_and_chmod(monkeypatch, lambda path: seen.append(bits(path)))
    unixsock.bind_exclusive(path, mode=mode, type=kind)[1].close()
    assert seen == [mode & ~umask]


@pytest.mark.parametrize("kind", set(TYPES) - {socket.SOCK_DGRAM}, ids=lambda kind: kind.name)
def test_until_it_has_its_mode_a_socket_that_listens_refuses_every_client(path, kind, monkeypatch):
    answers = []

    def knock(path):
        with socket.socket(socket.AF_UNIX, kind) as client:
            answers.append(client.connect_ex(path))

    between_bind_and_chmod(monkeypatch, knock)
    with unixsock.bind_exclusive(path, mode=0o666, type=kind)[1], socket.socket(socket.AF_UNIX, kind) as client:
        client.connect(path)
    assert answers == [errno.ECONNREFUSED]


@each_type
def test_where_a_socket_has_no_mode_of_its_own_its_file_gets_it_all_the_same(path, umask, kind, monkeypatch):
    def unknown(descriptor, mode):
        raise OSError(errno.EINVAL, "Invalid argument")  # as macOS and the BSDs answer

    monkeypatch.setattr(os, "fchmod", unknown)
    with unixsock.bind_exclusive(path, mode=0o640, type=kind)[1]:
        assert bits(path) == 0o640


def test_a_mode_that_the_socket_is_denied_is_an_error(directory, path, monkeypatch):
    def denied(descriptor, mode):
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "fchmod", denied)
    with pytest.raises(PermissionError) as refusal:
        unixsock.bind_exclusive(path, mode=0o600)
    assert refusal.value.filename == path
    assert os.listdir(directory) == ["a.sock.lock"]


@pytest.fixture(params=["file", "socket"])
def victim(request, directory):
    """Something that is nobody's business."""
    path = directory / "victim"
    if request.param == "file":
        path.write_text("secret")
    else:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.bind(str(path))
    path.chmod(0o640)
    return path


@on_linux
def test_a_link_that_is_planted_in_the_names_place_is_refused(directory, path, victim, monkeypatch):
    def plant(path):
        os.unlink(path)
        os.symlink(victim, path)

    between_bind_and_chmod(monkeypatch, plant)
    with pytest.raises(FileExistsError, match="not a socket") as refusal:
        unixsock.bind_exclusive(path, mode=0o666)
    assert refusal.value.errno == errno.EEXIST
    assert refusal.value.filename == path
    assert bits(victim) == 0o640
    assert sorted(os.listdir(directory)) == ["a.sock", "a.sock.lock", "victim"]
    assert os.path.islink(path)


@on_linux
def test_a_file_that_is_planted_in_the_names_place_is_refused(directory, path, monkeypatch):
    def plant(path):
        os.unlink(path)
        with open(path, "w") as file:
            os.fchmod(file.fileno(), 0o640)

    between_bind_and_chmod(monkeypatch, plant)
    with pytest.raises(FileExistsError, match="not a socket"):
        unixsock.bind_exclusive(path, mode=0o666)
    assert bits(path) == 0o640
    assert sorted(os.listdir(directory)) == ["a.sock", "a.sock.lock"]


@pytest.mark.parametrize("umask", [0o077], indirect=True)  # so that there is something to change
def test_a_link_that_is_planted_at_the_last_moment_is_not_followed(path, umask, victim, monkeypatch):
    chmod = os.chmod

    def late(*arguments, **options):
        os.unlink(path)
        os.symlink(victim, path)
        chmod(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(os, "chmod", late)
        _, guard = unixsock.bind_exclusive(path, mode=0o666)
    guard.close()
    assert bits(victim) == 0o640
    assert os.path.islink(path)


@pytest.mark.parametrize("umask", [0o077], indirect=True)
@pytest.mark.parametrize("system", ["darwin", "openbsd7"])
def test_elsewhere_than_on_linux_chmod_is_told_not_to_follow_a_link(path, umask, system, monkeypatch):
    asked = []
    with monkeypatch.context() as patch:
        patch.setattr(os, "chmod", lambda *arguments, **options: asked.append((arguments, options)))
        patch.setattr(sys, "platform", system)
        unixsock.bind_exclusive(path, mode=0o666)[1].close()
    assert asked == [((path, 0o666), {"follow_symlinks": False})]


@on_linux
@pytest.mark.parametrize("umask", [0o000], indirect=True)
def test_a_mode_that_is_right_at_once_is_not_set_again(path, umask, monkeypatch):
    monkeypatch.setattr(os, "chmod", lambda *_: pytest.fail("set again"))
    unixsock.bind_exclusive(path, mode=0o660)[1].close()


@on_linux
def test_where_python_has_no_name_for_o_path_it_has_the_same_number(monkeypatch):
    named = getattr(os, "O_PATH", None)
    monkeypatch.delattr(os, "O_PATH", raising=False)
    assert runpy.run_path(unixsock._socket_file.__file__)["_O_PATH"] == named or named is None


@pytest.mark.parametrize("umask", [0o077], indirect=True)
@on_linux
def test_without_proc_the_error_says_what_is_missing(directory, path, umask, monkeypatch):
    def chmod(name, mode):
        raise FileNotFoundError(errno.ENOENT, "No such file or directory", name)

    with pytest.raises(FileNotFoundError, match="without /proc") as refusal, monkeypatch.context() as patch:
        patch.setattr(os, "chmod", chmod)
        unixsock.bind_exclusive(path, mode=0o666)
    assert refusal.value.filename == path
    assert os.listdir(directory) == ["a.sock.lock"]


def test_a_name_that_is_gone_before_it_has_its_mode_is_an_error(directory, path, monkeypatch):
    between_bind_and_chmod(monkeypatch, os.unlink)
    with pytest.raises(FileNotFoundError) as refusal:
        unixsock.bind_exclusive(path, mode=0o600)
    assert refusal.value.filename == path
    assert os.listdir(directory) == ["a.sock.lock"]


@pytest.fixture
def user(directory, user):
    directory.chmod(0o777)
    return user


@pytest.mark.parametrize("mode", [0o600, 0o200], ids=oct)
def test_an_ordinary_user_gets_the_mode_too_and_clears_the_name_after_a_crash(path, user, mode):
    with user.fork() as first:
        first.do("held = unixsock.bind_exclusive(path, mode=mode)", path=path, mode=mode)
        assert bits(path) == mode
        first.kill()
    assert os.path.exists(path)
    user.do("sock, guard = unixsock.bind_exclusive(path, mode=mode)", path=path, mode=mode)
    assert bits(path) == mode
    user.do("guard.close()")


def test_a_umask_that_takes_owner_write_away_is_told_at_the_next_start(path, user):
    user.do("os.umask(0o277)")
    with user.fork() as first:
        first.do("held = unixsock.bind_exclusive(path)", path=path)
        first.kill()
    assert user.do(NAMED_BY_REFUSAL, path=path) == path + ".lock"


NAMED_BY_REFUSAL = """
try:
    unixsock.bind_exclusive(path)
except PermissionError as error:
    _ = error.filename
"""
