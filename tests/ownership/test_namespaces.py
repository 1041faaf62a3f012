"""One owner also across namespaces, as containers that share a directory are made of: a file is one file in them all.

Real ones, which an ordinary user may make in a user namespace of its own; skipped where the system forbids that.
"""

import contextlib
import errno
import os
import secrets
import socket

import pytest

import unixsock
from children import Child, ChildError
from observed import BIND, BOUND, START, as_root, expect_refusal, on_linux, raised_by, start_and_close

pytestmark = on_linux

# Without root a process may make a namespace of users only, and the others in that one.
ENTER = """
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
KINDS = {"mount": 0x00020000, "user": 0x10000000, "pid": 0x20000000, "net": 0x40000000}
MS_PRIVATE, MS_BIND = 0x44000, 0x1000
def checked(result):
    if result != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
def mount(source, target, kind=None, flags=0):
    checked(libc.mount(os.fsencode(source), os.fsencode(target), kind, flags, None))
uid, gid = os.geteuid(), os.getegid()
kinds = {*kinds, *(["user"] if uid != 0 else [])}
try:
    checked(libc.prctl(4, 1, 0, 0, 0))  # PR_SET_DUMPABLE: who has given up root could not write to its own /proc
    checked(libc.unshare(sum(KINDS[kind] for kind in kinds)))
    if "user" in kinds:
        for name, text in [("setgroups", "deny"), ("uid_map", f"0 {uid} 1"), ("gid_map", f"0 {gid} 1")]:
            with open(f"/proc/self/{name}", "w") as file:
                file.write(text)
    if "mount" in kinds:
        mount("none", "/", flags=MS_PRIVATE)
except OSError as error:
    _ = str(error)
"""


def enter(child, *kinds):
    """Have `child` enter new namespaces, in which it is root: one of each kind, and one of users if it has to."""
    impossible = child.do(ENTER, kinds=kinds)
    if impossible is not None:
        pytest.skip(f"no new namespaces here: {impossible}")


@contextlib.contextmanager
def inside(outer):
    """The first process of a new pid namespace, with a /proc that shows it. What `outer` forks later is in it, too."""
    enter(outer, "pid", "mount")
    with outer.fork() as first:
        if first.do("try: mount('none', '/proc', b'proc')\nexcept OSError as error: _ = str(error)") is not None:
            pytest.skip("no /proc of one's own here, as in many containers")
        assert first.value("os.getpid()") == 1
        yield first


def serves(server, client, address):
    """Whether the `client`, a process like the `server`, is served by its `sock` at `address`."""
    client.do("client = socket.socket(socket.AF_UNIX)\nclient.connect(address)", address=address)
    server.do("with sock.accept()[0] as served: served.sendall(b'hello')")
    return client.value("client.recv(5).decode()") == "hello"


def test_an_owner_outside_the_pid_namespace_refuses_those_inside_who_are_not_told_its_pid(path):
    with Child() as outer, inside(outer) as inner, Child() as owner:
        owner.do(BIND, path=path)
        assert inner.do(START, path=path) == ["refused", None]
        assert serves(owner, inner, path)
        owner.kill()
        assert inner.do(START) == ["started", None]


def test_an_owner_inside_the_pid_namespace_is_named_by_the_pid_that_it_has_outside(path):
    with Child() as outer, inside(outer) as inner:
        inner.do(BIND, path=path)
        assert expect_refusal(path).owner_pid == inner.pid
        assert inner.do(START) == ["refused", 1]  # its own, as it knows it
        with Child() as client:
            assert serves(inner, client, path)
        inner.kill()
        start_and_close(path)


def test_with_the_proc_of_another_pid_namespace_no_foreign_pid_is_told(path):
    with Child() as outer:
        enter(outer, "pid")
        with outer.fork() as owner:
            owner.do(BIND, path=path)
            with outer.fork() as second:
                assert second.do(START, path=path) == ["refused", None]
                second.kill()
                outer.do("os.wait()")  # the first process of a namespace ends after all others
            assert expect_refusal(path).owner_pid == owner.pid


def test_inside_a_pid_namespace_an_owner_that_has_ended_is_not_named_when_only_a_fork_of_it_holds_on(path):
    with Child() as outer, inside(outer) as inner:
        with outer.fork() as taker:
            taker.do(BIND, path=path)
            assert inner.do(START, path=path) == ["refused", 2]
            taker.do("if os.fork() == 0: signal.pause()")  # ends with the namespace
            taker.kill()
            outer.do("os.wait()")
        assert inner.do(START) == ["refused", None]


def test_a_directory_that_is_mounted_elsewhere_too_has_one_owner_by_both_paths(directory, path):
    (directory / "data").mkdir()
    (directory / "other").mkdir()
    with Child() as owner, Child() as second:
        enter(second, "mount")
        second.do("mount(data, other, flags=MS_BIND)", data=str(directory / "data"), other=str(directory / "other"))
        owner.do(BIND, path=str(directory / "data" / "a.sock"))
        assert second.do(START, path=str(directory / "other" / "a.sock")) == ["refused", owner.pid]
        assert serves(owner, second, str(directory / "other" / "a.sock"))
        owner.kill()
        second.do(BIND)  # over the stale socket file
        assert expect_refusal(str(directory / "data" / "a.sock")).owner_pid == second.pid


def test_a_socket_that_is_mounted_by_itself_keeps_its_server_but_has_a_lock_of_its_own(directory, path):
    mounted = directory / "alone" / "a.sock"
    mounted.parent.mkdir()
    mounted.touch()
    with Child() as owner, Child() as second:
        owner.do(BIND, path=path)
        enter(second, "mount")
        second.do("mount(socket_file, mounted, flags=MS_BIND)", socket_file=path, mounted=str(mounted))
        assert serves(owner, second, str(mounted))
        assert second.do(START, path=str(mounted)) == ["refused", None]  # by the server, not by its lock
        owner.kill()
        assert raised_by(second, str(mounted)) == ("OSError", errno.EBUSY, str(mounted))  # it is mounted on
        assert os.path.exists(f"{mounted}.lock")


@pytest.mark.parametrize("kind", ["net", "user"])
def test_a_path_has_one_owner_across_namespaces_and_is_reached_from_each(path, kind):
    with Child() as owner, Child() as second:
        enter(second, kind)
        owner.do(BIND, path=path)
        assert second.do(START, path=path) == ["refused", owner.pid]
        assert serves(owner, second, path)
        owner.kill()
        assert second.do(START) == ["started", None]


@pytest.mark.parametrize("kind", ["SOCK_STREAM", "SOCK_DGRAM"])
def test_a_server_without_the_lock_in_another_network_namespace_keeps_its_path(path, kind):
    with Child() as server:
        enter(server, "net")
        server.do("sock = socket.socket(socket.AF_UNIX, getattr(socket, kind))\nsock.bind(path)", kind=kind, path=path)
        inode = os.stat(path).st_ino
        expect_refusal(path, BOUND)
        assert os.stat(path).st_ino == inode


def test_an_abstract_name_can_be_had_once_in_each_network_namespace_and_is_reached_in_its_own_alone():
    name = f"unixsock-test-{os.getpid()}-{secrets.token_hex(8)}"
    with Child() as other:
        enter(other, "net")
        other.do("sock, guard = unixsock.bind_abstract(name)", name=name)
        with socket.socket(socket.AF_UNIX) as client, pytest.raises(ConnectionRefusedError):
            client.connect("\0" + name)
        with unixsock.bind_abstract(name)[1]:
            expect_refusal(name, "abstract name", unixsock.bind_abstract)


@as_root
def test_being_root_in_a_user_namespace_gives_no_right_to_the_lock_file_of_another_user(directory, path, user):
    start_and_close(path)
    directory.chmod(0o777)
    enter(user, "user")
    assert user.value("os.geteuid()") == 0
    assert raised_by(user, path) == ("PermissionError", errno.EACCES, path + ".lock")


def test_in_a_chroot_the_path_is_another_and_the_owner_the_same(directory, path):
    with Child() as owner, Child() as second:
        enter(second, "mount")  # for the right to chroot(2)
        owner.do(BIND, path=path)
        second.do("os.chroot(root)\nos.chdir('/')", root=str(directory))
        assert second.do(START, path="/a.sock") == ["refused", None]  # there is no /proc to ask
        assert serves(owner, second, "/a.sock")
        owner.kill()
        assert second.do(START) == ["started", None]


def test_in_a_chroot_without_proc_a_mode_beyond_the_umask_fails_and_says_what_is_missing(directory):
    with Child() as child:
        enter(child, "mount")
        child.do("os.chroot(root)\nos.umask(0o022)", root=str(directory))
        child.do("unixsock.bind_exclusive('/a.sock', mode=0o644)[1].close()")
        with pytest.raises(ChildError, match="mount /proc") as refusal:
            child.do("unixsock.bind_exclusive('/a.sock', mode=0o666)")
        assert (refusal.value.kind, refusal.value.filename) == ("FileNotFoundError", "/a.sock")
    assert os.listdir(directory) == ["a.sock.lock"]
