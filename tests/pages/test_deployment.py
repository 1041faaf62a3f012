"""docs/deployment.md: another user connects, the unit, signals, an exec that fails, and who owns a path."""

import contextlib
import grp
import os
import re
import shutil
import signal
import socket
import subprocess
import sys

import pytest

from children import PATIENCE, Child, ChildError
from markdown import block, read
from observed import BIND, BOUND, TAKEN, as_root, expect_refusal
from programs import EXAMPLES, Program, refused

PAGE = read("docs/deployment.md")


def adapted(part, place):
    """That block, for another directory and for a group that every system has."""
    return block(PAGE, part).replace("/run/app", place).replace("www-data", "daemon")


@as_root
@pytest.mark.parametrize(
    ("part", "run_by"), [("install", ["sh", "-e"]), ("d /run", ["systemd-tmpfiles", "--create", "-"]), ("group=", [])]
)
def test_a_member_of_the_group_connects_and_another_user_does_not(part, run_by, directory, user):
    if run_by and shutil.which(run_by[0]) is None:
        pytest.skip(f"no {run_by[0]}")
    place, path, group = str(directory / "app"), str(directory / "app" / "app.sock"), grp.getgrnam("daemon").gr_gid
    directory.chmod(0o755)
    code = adapted(part, place).replace(" app ", " nobody ")
    with contextlib.ExitStack() as stack:
        if run_by:
            subprocess.run(run_by, input=code.encode(), timeout=PATIENCE, check=True)
            user.do("sock, guard = unixsock.bind_exclusive(path, mode=0o660)", path=path)
        else:
            server = stack.enter_context(Child())
            server.do(f"os.umask(0o022)\n{adapted('makedirs', place)}\n{code}")
        connect = (
            "os.setgroups(groups); os.setgid(64000); os.setuid(64000); socket.socket(socket.AF_UNIX).connect(path)"
        )
        member, other = (stack.enter_context(Child()) for _ in range(2))
        member.do(connect, groups=[group], path=path)
        with pytest.raises(ChildError, match="PermissionError"):
            other.do(connect, groups=[], path=path)


@as_root
def test_who_is_not_a_member_is_told_which_group_it_is(directory, user):
    directory.chmod(0o777)
    with pytest.raises(ChildError, match=r"Operation not permitted .*'daemon'"):
        user.do(adapted("group=", str(directory)))


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd-analyze")
def test_systemd_finds_nothing_in_the_unit():
    command = ["systemd-analyze", "--recursive-errors=no", "verify", EXAMPLES / "app.service"]
    run = subprocess.run(command, capture_output=True, timeout=PATIENCE, check=False)
    assert (run.returncode, run.stdout, run.stderr) == (0, b"", b"")  # it exits 0 after a warning, too


def test_the_page_shows_the_unit_without_its_comments():
    lines = (EXAMPLES / "app.service").read_text(encoding="utf-8").splitlines(keepends=True)
    assert block(PAGE, "[Unit]") == "".join(line for line in lines if not line.startswith("#"))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_asyncio_server_with_the_pages_lines_ends_cleanly(number, path):
    program = block(PAGE, "add_signal_handler").replace("/run/app/app.sock", path)
    program = program.replace("with guard:\n", "with guard:\n    print('bound', flush=True)\n")
    with Program([sys.executable, "-c", program]) as server, socket.socket(socket.AF_UNIX) as client:
        assert server.line() == "bound"
        client.connect(path)
        assert client.recv(1) == b""  # it serves, so it has set its handlers
        assert server.end(number) == (0, "")
    assert os.listdir(os.path.dirname(path)) == ["a.sock.lock"]


@pytest.mark.parametrize(("command", "status"), [(["/no", "{fd}"], 1), (["/no", "number"], 1), ([], 2)])
def test_exec_that_cannot_run_the_command_leaves_no_socket_file(command, status, path):
    assert refused("exec_server.py", path, *command)[0] == status
    assert not os.path.exists(path)


REFUSALS = re.findall(r"^\| `([^`]*(?:taken|bound there|no socket file|denied)[^`]*)` \|", PAGE, re.MULTILINE)


def test_the_messages_that_the_page_explains_are_those_of_the_reference():
    reference = (EXAMPLES.parent / "reference.md").read_text(encoding="utf-8")
    in_use = [message for message in REFUSALS if "denied" not in message]
    assert len(in_use) == 6
    for message in in_use:
        assert message.removeprefix("Address already in use (").rstrip(")") in reference


@as_root
def test_permission_denied_says_whose_the_lock_file_is_or_the_directory(directory, user):
    directory.chmod(0o755)
    path = str(directory / "a.sock")
    [of_root, cannot_make] = [message for message in REFUSALS if message.startswith("Permission denied")]
    for message in (cannot_make, of_root):
        with pytest.raises(ChildError, match=re.escape(message.replace("998", "65534").rstrip(" …"))):
            user.do(BIND, path=path)
        (directory / "a.sock.lock").touch(mode=0o600)


has_tools = pytest.mark.skipif(not (shutil.which("fuser") and shutil.which("ss")), reason="no fuser or no ss")
DATAGRAM = "sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM); sock.bind(path)"


def found(part, path, *before):
    """What the page's commands print about this path; for fuser and ss, each on its own."""
    command = block(PAGE, part).replace("/run/app/app.sock", path)
    run = subprocess.run([*before, "sh", "-c", command], capture_output=True, text=True, timeout=PATIENCE, check=False)
    if part != "fuser":
        return run.stdout
    fuser, ss = run.stdout.split("Netid")
    return {int(pid) for pid in fuser.split()}, ss


@has_tools
@pytest.mark.parametrize("owns", [BIND, DATAGRAM])
def test_the_pages_commands_find_who_is_the_reason_of_a_refusal(path, owns):
    with Child() as owner:
        owner.do(owns, path=path)
        expect_refusal(path, BOUND if "DGRAM" in owns else TAKEN)
        pids, ss = found("fuser", path)
    assert pids == {owner.pid}
    assert f"pid={owner.pid}," in ss


@has_tools
@as_root
def test_ss_does_not_see_another_network_namespace_but_fuser_does(path):
    if subprocess.run(["unshare", "-n", "true"], capture_output=True, check=False).returncode:
        pytest.skip("no network namespace")
    with Child() as owner:
        owner.do(BIND, path=path)
        pids, ss = found("fuser", path, "unshare", "-n")
    assert pids == {owner.pid}
    assert path not in ss


@has_tools
def test_ss_lists_a_relative_path_under_what_was_bound(path, directory):
    with Child(cwd=directory) as owner:
        owner.do(DATAGRAM, path="a.sock")
        assert "a.sock" not in found("fuser", path)[1]
        listed = subprocess.run(["ss", "-xap"], capture_output=True, text=True, timeout=PATIENCE, check=True).stdout
    assert re.search(rf" a\.sock .*pid={owner.pid},", listed)


@has_tools
def test_fuser_does_not_see_descriptors_in_flight(path):
    with Child() as owner:
        owner.do(BIND, path=path)
        owner.do(
            "import struct\n"
            "ours, theirs = socket.socketpair()\n"
            "ours.sendmsg([b'.'], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack('i', guard.fileno()))])\n"
            "guard.close()"
        )
        expect_refusal(path)
        assert found("fuser", path)[0] == set()


def test_the_shells_commands_find_the_owner_and_a_socket_without_the_lock(path):
    with Child() as owner:
        owner.do(BIND, path=path)
        table, _, holders = found("/proc/net/unix", path).partition("/proc/")
        assert f" {path}\n" in table
        assert f"{owner.pid}/fd/" in holders
        owner.do("kept = sock.dup(); guard.close()")
        expect_refusal(path, BOUND)
        printed = found("/proc/net/unix", path)
        [inode] = re.findall(rf"(\d+) {path}$", printed, re.MULTILINE)
        assert "/fd/" not in printed
        assert owner.value("os.readlink(f'/proc/self/fd/{kept.fileno()}')") == f"socket:[{inode}]"
