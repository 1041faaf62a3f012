"""docs/deployment.md: another user connects, the unit, signals, an exec that fails, and who owns a path."""

import contextlib
import grp
import os
import shutil
import signal
import socket
import subprocess
import sys

import pytest

import unixsock
from children import PATIENCE, Child, ChildError
from markdown import block, read
from observed import BIND, BOUND, TAKEN, as_root, expect_refusal
from programs import EXAMPLES, Program, refused

PAGE = read("docs/deployment.md")


@as_root
@pytest.mark.parametrize(
    ("part", "run_by"), [("install", ["sh", "-e"]), ("d /run", ["systemd-tmpfiles", "--create", "-"]), ("os.chown", [])]
)
def test_a_member_of_the_group_connects_and_another_user_does_not(part, run_by, directory, user):
    if run_by and shutil.which(run_by[0]) is None:
        pytest.skip(f"no {run_by[0]}")
    place, path, group = str(directory / "app"), str(directory / "app" / "a.sock"), grp.getgrnam("daemon").gr_gid
    directory.chmod(0o755)
    code = block(PAGE, part).replace("/run/app", place).replace(" app ", " nobody ").replace("www-data", "daemon")
    if run_by:
        subprocess.run(run_by, input=code.encode(), timeout=PATIENCE, check=True)
        guard = contextlib.nullcontext()
        user.do("sock, guard = unixsock.bind_exclusive(path, mode=0o660)", path=path)
    else:
        os.mkdir(place, mode=0o755)
        guard = unixsock.bind_exclusive(path, mode=0o660)[1]
        exec(code, {"os": os, "guard": guard, "gid": group})
    connect = "os.setgroups(groups); os.setgid(64000); os.setuid(64000); socket.socket(socket.AF_UNIX).connect(path)"
    with guard, Child() as member, Child() as other:
        member.do(connect, groups=[group], path=path)
        with pytest.raises(ChildError, match="PermissionError"):
            other.do(connect, groups=[], path=path)


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd-analyze")
def test_systemd_finds_nothing_in_the_unit():
    command = ["systemd-analyze", "--recursive-errors=no", "verify", EXAMPLES / "app.service"]
    run = subprocess.run(command, capture_output=True, timeout=PATIENCE, check=False)
    assert (run.returncode, run.stdout, run.stderr) == (0, b"", b"")  # it exits 0 after a warning, too


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_asyncio_server_with_the_pages_lines_ends_cleanly(number, path):
    program = f"""
import asyncio, signal, sys, unixsock
handler = lambda reader, writer: writer.close()
{block(PAGE, "add_signal_handler")}
sock, guard = unixsock.bind_exclusive(sys.argv[1])
with guard:
    print("bound", flush=True)
    asyncio.run(serve(sock))
"""
    with Program([sys.executable, "-c", program, path]) as server, socket.socket(socket.AF_UNIX) as client:
        assert server.line() == "bound"
        client.connect(path)
        assert client.recv(1) == b""  # it serves, so it has set its handlers
        assert server.end(number) == (0, "")
    assert os.listdir(os.path.dirname(path)) == ["a.sock.lock"]


@pytest.mark.parametrize(("command", "status"), [(["/no", "{fd}"], 1), (["/no", "number"], 1), ([], 2)])
def test_exec_that_cannot_run_the_command_leaves_no_socket_file(command, status, path):
    assert refused("exec_server.py", path, *command)[0] == status
    assert not os.path.exists(path)


@pytest.mark.skipif(not (shutil.which("fuser") and shutil.which("ss")), reason="no fuser or no ss")
@pytest.mark.parametrize("owns", [BIND, "sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM); sock.bind(path)"])
def test_the_pages_commands_find_who_is_the_reason_of_a_refusal(path, owns):
    with Child() as owner:
        owner.do(owns, path=path)
        expect_refusal(path, BOUND if "DGRAM" in owns else TAKEN)
        command = block(PAGE, "fuser").replace("/run/app/app.sock", path)
        run = subprocess.run(["sh", "-ec", command], capture_output=True, text=True, timeout=PATIENCE, check=True)
    fuser, ss = run.stdout.split("Netid")
    assert {int(pid) for pid in fuser.split()} == {owner.pid}
    assert f"pid={owner.pid}," in ss
