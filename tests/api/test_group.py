"""The socket file gets the group that was asked for, and nobody outside it ever has the group's bits."""

import contextlib
import errno
import os
import sys

import pytest

import unixsock
from children import Child
from observed import OTHER_GROUP, as_root, each_type, imported_anew, mode_of, on_linux
from system_calls import fails_with, instead, intercepted

SERVER, MEMBER, OUTSIDER = 61001, 61003, 61004  # users
OWN, ASKED = 61001, 61002  # groups: the server's own, with OUTSIDER in it, and the one that is asked for


def group_of(path):
    return os.lstat(path).st_gid


def become(child, user, group, *groups):
    child.do("os.setgroups(groups); os.setgid(group); os.setuid(user)", user=user, group=group, groups=groups)


@each_type
@pytest.mark.parametrize("mode", [0o660, 0o220, 0o666], ids=oct)
@pytest.mark.parametrize("umask", [0o000, 0o077], ids=oct)
def test_the_socket_file_has_the_group_and_exactly_the_mode(path, kind, mode, umask):
    usual = os.umask(umask)
    try:
        with unixsock.bind_exclusive(path, type=kind, mode=mode, group=OTHER_GROUP)[1]:
            assert (group_of(path), mode_of(path)) == (OTHER_GROUP, mode)
    finally:
        os.umask(usual)
    assert not os.path.exists(path)


def test_a_group_goes_by_its_name_too(path):
    grp = pytest.importorskip("grp")
    try:
        name = grp.getgrgid(os.getegid()).gr_name
    except KeyError:
        pytest.skip("our own group has no name here")
    with unixsock.bind_exclusive(path, mode=0o660, group=name)[1]:
        assert group_of(path) == os.getegid()


def test_a_name_is_looked_up_before_anything_is_held_or_made(directory, path):
    with pytest.raises(ValueError, match="no-such-group"):
        unixsock.bind_exclusive(path, mode=0o660, group="no-such-group", timeout=None)
    assert os.listdir(directory) == []
    with unixsock.bind_exclusive(path)[1], pytest.raises(ValueError, match="no-such-group"):
        unixsock.bind_exclusive(path, mode=0o660, group="no-such-group", timeout=None)


@pytest.mark.parametrize("mode", [None, 0o600, 0o640, 0o606], ids=str)
def test_a_group_without_a_mode_that_lets_it_write_is_refused(directory, path, mode):
    with pytest.raises(ValueError, match=r"group must come with a mode .*0o020"):
        unixsock.bind_exclusive(path, mode=mode, group=OTHER_GROUP)
    assert os.listdir(directory) == []


def test_where_the_system_has_no_group_names_a_number_serves(path, monkeypatch):
    monkeypatch.setitem(sys.modules, "grp", None)
    package = imported_anew(monkeypatch)
    with package.bind_exclusive(path, mode=0o660, group=OTHER_GROUP)[1]:
        assert group_of(path) == OTHER_GROUP
    with pytest.raises(ValueError, match="group must be the name of a group here"):
        package.bind_exclusive(path, mode=0o660, group="root")


@on_linux
@each_type
def test_from_bind_on_nobody_outside_the_group_has_its_bits(directory, path, kind):
    def look(call):
        with contextlib.suppress(FileNotFoundError):
            found = os.lstat(path)
            seen.add((found.st_gid == OTHER_GROUP, bool(found.st_mode & 0o070)))
        return call.run()

    seen = set()
    os.chown(directory, -1, os.getegid())
    usual = os.umask(0)
    try:
        with intercepted(look):
            unixsock.bind_exclusive(path, type=kind, mode=0o660, group=OTHER_GROUP)[1].close()
    finally:
        os.umask(usual)
    assert (True, True) in seen
    assert (False, True) not in seen


@on_linux
@as_root
@each_type
def test_a_client_of_another_group_never_gets_in_and_one_of_the_group_does(directory, path, kind):
    attempt = (
        "client = socket.socket(socket.AF_UNIX, kind)\n"
        "client.settimeout(5)\n"
        "_ = client.connect_ex(path)\n"
        "client.close()"
    )
    directory.chmod(0o777)
    with Child() as server, Child() as member, Child() as outsider:
        become(outsider, OUTSIDER, OWN)
        become(member, MEMBER, ASKED)
        server.do("import system_calls, threading")
        become(server, SERVER, OWN, ASKED)
        # The server stops before each of its calls, and lets the outsider try.
        server.do(
            "def stop(call):\n"
            "    os.write(stopped[1], b'.')\n"
            "    os.read(go[0], 1)\n"
            "    return call.run()\n"
            "stopped, go = os.pipe(), os.pipe()\n"
            "os.umask(0)\n"
            "def bind():\n"
            "    global sock, guard\n"
            "    with system_calls.intercepted(stop):\n"
            "        sock, guard = unixsock.bind_exclusive(path, type=kind, mode=0o660, group=group)\n"
            "    os.write(stopped[1], b'!')\n"
            "thread = threading.Thread(target=bind)\n"
            "thread.start()",
            path=path,
            kind=kind,
            group=ASKED,
        )
        answers = []
        while server.do("_ = os.read(stopped[0], 1).decode()") == ".":
            answers.append(outsider.do(attempt, path=path, kind=kind))
            server.do("os.write(go[1], b'.')")
        answers.append(outsider.do(attempt, path=path, kind=kind))
        assert set(answers) <= {errno.ENOENT, errno.EACCES}
        assert errno.EACCES in answers
        assert member.do(attempt, path=path, kind=kind) == 0
        assert (group_of(path), mode_of(path)) == (ASKED, 0o660)
        server.do("thread.join(); guard.close()")


@on_linux
def test_a_group_that_looks_right_is_set_all_the_same(path):
    # In a user namespace, a foreign group that is not mapped looks like 65534, and group=65534 would look right.
    asked = []
    with instead("os.chown", lambda call: asked.append(call.args[1:])):
        unixsock.bind_exclusive(path, mode=0o660, group=os.getegid())[1].close()
    assert asked == [(-1, os.getegid())]


@as_root
@pytest.mark.parametrize("given", ["root", 0, 61009])
def test_who_is_no_member_is_told_the_group_as_it_was_given(directory, path, user, given):
    directory.chmod(0o777)
    with pytest.raises(Exception, match=rf"group {given!r} cannot be set: only its members and root may") as refusal:
        user.do("unixsock.bind_exclusive(path, mode=0o660, group=given)", path=path, given=given)
    assert (refusal.value.kind, refusal.value.errno) == ("PermissionError", errno.EPERM)
    assert refusal.value.filename == path
    assert os.listdir(directory) == ["a.sock.lock"]


def test_a_group_that_a_user_namespace_does_not_map_is_told(directory, path):
    with instead("os.chown", fails_with(errno.EINVAL)), pytest.raises(OSError, match="does not map it") as refusal:
        unixsock.bind_exclusive(path, mode=0o660, group=OTHER_GROUP)
    assert (refusal.value.errno, refusal.value.filename) == (errno.EINVAL, path)
    assert os.listdir(directory) == ["a.sock.lock"]


@as_root
def test_a_group_that_did_not_take_is_an_error_and_no_socket_file_is_left(directory, path):
    # As on a filesystem that ignores chown(2).
    with instead("os.chown", lambda _: None), pytest.raises(PermissionError, match=rf"not {ASKED}: ") as refusal:
        unixsock.bind_exclusive(path, mode=0o660, group=ASKED)
    assert (refusal.value.errno, refusal.value.filename) == (errno.EPERM, path)
    assert os.listdir(directory) == ["a.sock.lock"]


@pytest.mark.parametrize("system", ["darwin", "openbsd7"])
def test_elsewhere_than_on_linux_chown_is_told_not_to_follow_a_link(path, system, monkeypatch):
    def note(call):
        if call.name not in ("os.chown", "os.chmod"):
            return call.run()
        asked.append((call.name, *call.args, call.kwargs))
        return call.function(*call.args)  # chmod(2) of Linux cannot be told so

    asked = []
    with intercepted(note), monkeypatch.context() as patch:
        patch.setattr(sys, "platform", system)
        unixsock.bind_exclusive(path, mode=0o660, group=OTHER_GROUP)[1].close()
    assert asked == [
        ("os.chown", path, -1, OTHER_GROUP, {"follow_symlinks": False}),
        ("os.chmod", path, 0o660, {"follow_symlinks": False}),
    ]
