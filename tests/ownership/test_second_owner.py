"""A second owner is refused, is told who the first is, and leaves the first untouched."""

import errno
import fcntl
import os
import re
import sys

import pytest

import unixsock
from children import Child, ChildError
from observed import BIND, each_type, expect_refusal, on_linux, reaches, snapshot, start_and_close
from system_calls import fails_with, instead

# proc_ns.h: the first pid namespace has this inode.
IN_FIRST_PID_NAMESPACE = sys.platform == "linux" and os.stat("/proc/self/ns/pid").st_ino == 0xEFFFFFFC


def told(pid):
    """The owner's pid that a refusal has: `pid` where the system has /proc/locks."""
    return pid if os.path.exists("/proc/locks") else None


def test_another_process_is_refused_told_the_owners_pid_and_leaves_everything_as_it_is(directory, path):
    with Child() as first:
        first.do(BIND, path=path)
        unchanged = snapshot(directory)
        error = expect_refusal(path)
        assert (error.errno, error.filename, error.owner_pid) == (errno.EADDRINUSE, path, told(first.pid))
        assert bool(re.search(rf"\bpid {first.pid}\b", error.strerror)) == (error.owner_pid is not None)
        assert (error.__cause__, error.__suppress_context__) == (None, True)
        assert snapshot(directory) == unchanged
        first.do("sock.settimeout(0)")
        with pytest.raises(ChildError, match="BlockingIOError"):
            first.do("sock.accept()")  # no phantom client waits there
        assert reaches(path, first)


@each_type
def test_the_same_process_is_refused_and_told_its_own_pid(path, kind):
    with unixsock.bind_exclusive(path)[1] as guard:
        error = expect_refusal(path, type=kind)
        assert error.owner_pid == told(os.getpid())
        assert (f"this process, pid {os.getpid()}" in error.strerror) == (error.owner_pid is not None)
        again = expect_refusal(os.fsencode(path))  # the first refusal has not closed the lock
        assert again.owner_pid == told(os.getpid())
        assert not guard.closed
        with Child() as other, pytest.raises(ChildError, match="taken by") as refusal:
            other.do("unixsock.bind_exclusive(path)", path=path)
        assert "this process" not in str(refusal.value)
    with open(path + ".lock") as lock_of_another_library:
        fcntl.flock(lock_of_another_library, fcntl.LOCK_EX)
        assert expect_refusal(path).owner_pid == told(os.getpid())
    start_and_close(path)


def test_after_a_fork_the_owner_is_who_took_the_lock_and_said_to_have_ended_once_it_has(path):
    with Child() as taker:
        taker.do(BIND, path=path)
        with taker.fork():
            taker.do("guard.close()")
            assert expect_refusal(path).owner_pid == told(taker.pid)
            assert "exited" not in str(expect_refusal(path))
            taker.kill()
            error = expect_refusal(path)
            # In a pid namespace other than the first, a process that has ended has no number any more.
            assert error.owner_pid == (told(taker.pid) if IN_FIRST_PID_NAMESPACE else None)
            shown = f"pid {taker.pid}, which has exited; "
            assert (shown in str(error)) == (error.owner_pid is not None)


@on_linux
@pytest.mark.parametrize("code", [errno.EPERM, errno.ENOSYS])  # another user's process; a sandbox without kill(2)
def test_an_owner_that_may_not_be_signalled_has_not_ended(path, code):
    def refuse(call):
        assert call.args == (owner.pid, 0)
        fails_with(code)(call)

    with Child() as owner:
        owner.do(BIND, path=path)
        with instead("os.kill", refuse):
            assert "exited" not in str(expect_refusal(path))


def test_a_refusal_says_when_the_owners_socket_file_was_deleted(path):
    with unixsock.bind_exclusive(path)[1]:
        assert "no socket file" not in str(expect_refusal(path))
        os.unlink(path)
        assert "no socket file is there" in str(expect_refusal(path))
        with instead("os.lstat", lambda call: fails_with(errno.EACCES)(call) if call.args == (path,) else call.run()):
            assert "no socket file" not in str(expect_refusal(path))  # not known


# Lines of proc(5)'s /proc/locks about the lock file, but the last two: those are about another on the same device.
OTHER_LOCKS = [
    "DELEG  ACTIVE    READ  4241 {device}:{inode}",
    "POSIX  ADVISORY  WRITE 4241 {device}:{inode}",
    "-> FLOCK  ADVISORY  WRITE 4241 {device}:{inode}",
    "FLOCK  ADVISORY  WRITE 4241 {device}:{inode}0",
    "FLOCK  ADVISORY  WRITE 4241 {device}:1{inode}",
]


def owner_by(directory, path, *lines):
    """The owner's pid that a refusal has where the system's table has these lines; None stands for no table."""

    def read_ours(call):
        if call.args[0] == "/proc/locks":
            call.args = (str(directory / "locks"), *call.args[1:])
        return call.run()

    with unixsock.bind_exclusive(path)[1] as guard:
        file = os.stat(guard.lock_path)
        where = {"device": f"{os.major(file.st_dev):02x}:{os.minor(file.st_dev):02x}", "inode": file.st_ino}
        if lines:
            text = "".join(f"{number}: {line} 0 EOF\n".format(**where) for number, line in enumerate(lines))
            (directory / "locks").write_text(text)
        with instead("open", read_ours), instead("os.open", read_ours):
            return expect_refusal(path).owner_pid


@on_linux
@pytest.mark.parametrize("other", OTHER_LOCKS)
def test_a_lock_of_another_kind_or_on_another_file_does_not_make_an_owner(directory, path, other):
    elsewhere = "FLOCK  ADVISORY  WRITE 4240 00:00:0"
    ours = f"FLOCK  ADVISORY  WRITE {os.getppid()} {{device}}:{{inode}}"
    assert owner_by(directory, path, elsewhere, other, ours) == os.getppid()
    assert owner_by(directory, path, elsewhere, other) is None


@on_linux
def test_a_pid_of_another_pid_namespace_is_not_named(path):
    with unixsock.bind_exclusive(path)[1], instead("os.readlink", lambda _: "1"):  # where /proc/self leads to there
        assert expect_refusal(path).owner_pid is None


@pytest.mark.parametrize("lines", [[], ["FLOCK  ADVISORY  WRITE 0 {device}:{inode}"]], ids=["no table", "no pid here"])
def test_an_owner_that_the_system_does_not_report_is_not_named(directory, path, lines):
    assert owner_by(directory, path, *lines) is None
