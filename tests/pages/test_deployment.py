"""docs/deployment.md and its programs: another user connects, a unit, signals, exec and systemd's protocol."""

import contextlib
import grp
import os
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
import textwrap

import pytest

import unixsock
from children import PATIENCE, Child, ChildError
from programs import EXAMPLES, Program, refused, served_by

PAGE = (EXAMPLES.parent / "deployment.md").read_text(encoding="utf-8")
UNIT = EXAMPLES / "app.service"
ACTIVATED = str(EXAMPLES / "activated.py")

# Takes the descriptor that it is told.
STAND_IN = r"""if True:
    import os, socket, sys
    assert "LISTEN_PID" not in os.environ
    sock = socket.socket(fileno=int(sys.argv[1]))
    print(f"pid {os.getpid()} listens at {sock.getsockname()}", flush=True)
    while True:
        client = sock.accept()[0]
        client.recv(4096)
        client.sendall(f"HTTP/1.0 200 OK\r\n\r\nHello from pid {os.getpid()}\n".encode())
        client.close()
"""
COMMANDS = {
    "by number": [sys.executable, "-c", STAND_IN, "{fd}"],
    "by systemd's protocol": [sys.executable, ACTIVATED, "/nowhere/a.sock"],
}


def block(part):
    """The one block of code of the page that has `part` in it."""
    [text] = [text for text in re.findall(r"^ *```\w+\n(.*?)^ *```$", PAGE, re.MULTILINE | re.DOTALL) if part in text]
    return textwrap.dedent(text)


def adapted(part, place):
    """That block for the directory `place`, and for a user and a group that every system has."""
    code = block(part).replace("/run/app", place).replace("www-data", "daemon")
    return code.replace("-o app", "-o nobody").replace(" app ", " nobody ").encode()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be two users")
@pytest.mark.parametrize("way", ["install", "systemd-tmpfiles", "chown"])
def test_a_member_of_the_group_connects_and_another_user_does_not(way, directory, user):
    if shutil.which(way) is None:
        pytest.skip(f"no {way}")
    place, group = str(directory / "app"), grp.getgrnam("daemon").gr_gid
    path = f"{place}/a.sock"
    directory.chmod(0o755)
    if way == "chown":
        os.mkdir(place, mode=0o755)
        guard = unixsock.bind_exclusive(path, mode=0o660)[1]
        exec(block("os.chown"), {"os": os, "guard": guard, "gid": group})
    else:
        command = ["sh", "-e"] if way == "install" else [way, "--create", "-"]
        subprocess.run(
            command, input=adapted(way if way == "install" else "d /run", place), timeout=PATIENCE, check=True
        )
        guard = contextlib.nullcontext()
        user.do("sock, guard = unixsock.bind_exclusive(path, mode=0o660)", path=path)
    connect = "os.setgroups(groups); os.setgid(64000); os.setuid(64000); socket.socket(socket.AF_UNIX).connect(path)"
    with guard, Child() as member, Child() as stranger:
        member.do(connect, groups=[group], path=path)
        with pytest.raises(ChildError, match="PermissionError"):
            stranger.do(connect, groups=[], path=path)


def test_the_unit_has_the_settings_that_the_page_explains():
    rows = re.findall(r"^\| (`.*?`) \|", PAGE, re.MULTILINE)
    settings = re.findall(r"`(\w+=[^`]*)`", " ".join(rows))
    assert "RuntimeDirectoryPreserve=yes" in settings
    assert [setting for setting in settings if f"\n{setting}" not in UNIT.read_text()] == []


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd-analyze")
def test_systemd_finds_nothing_in_the_unit():
    command = ["systemd-analyze", "--recursive-errors=no", "verify", str(UNIT)]
    run = subprocess.run(command, capture_output=True, timeout=PATIENCE, check=False)
    assert (run.returncode, run.stdout, run.stderr) == (0, b"", b"")  # it exits 0 after a warning, too


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_asyncio_server_with_the_pages_lines_ends_cleanly(number, path):
    program = f"""
import asyncio, signal, sys, unixsock
async def handler(reader, writer):
    writer.close()
{block("add_signal_handler")}
sock, guard = unixsock.bind_exclusive(sys.argv[1])
with guard:
    print("bound", flush=True)
    asyncio.run(serve(sock))
"""
    with Program([sys.executable, "-c", program, path]) as server, socket.socket(socket.AF_UNIX) as client:
        assert server.line() == "bound"
        client.settimeout(PATIENCE)
        client.connect(path)
        assert client.recv(1) == b""  # it serves, so it has set its handlers
        assert server.end(number) == (0, "")
    assert os.listdir(os.path.dirname(path)) == ["a.sock.lock"]


@contextlib.contextmanager
def serving(path, *command):
    with Program([sys.executable, *command]) as server:
        assert server.line() == f"pid {server.pid} listens at {path}"
        yield server


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
def test_a_server_behind_exec_is_alone_and_starts_again_after_kill_9(command, path):
    start = [str(EXAMPLES / "exec_server.py"), path, *command]
    for number in (signal.SIGKILL, signal.SIGTERM):
        with serving(path, *start) as server:
            assert stat.S_IMODE(os.stat(path).st_mode) == 0o660
            assert served_by(path) == server.pid
            status, errors = refused("exec_server.py", "--timeout", "0", *start[1:])
            assert status == os.EX_TEMPFAIL
            assert re.fullmatch(rf"exec_server\.py: .*taken by.*{re.escape(path)}.*\n", errors)
            assert served_by(path) == server.pid
            server.end(number)


# exec_server.py, telling of each pause between two tries.
TELLING = f"""
import runpy, sys, time
pause = time.sleep
time.sleep = lambda seconds: (print("waits", flush=True), pause(seconds))
del sys.argv[0]
runpy.run_path({str(EXAMPLES / "exec_server.py")!r}, run_name="__main__")
"""


def test_exec_waits_for_the_owner(path):
    start = [sys.executable, "-c", TELLING, "", path, *COMMANDS["by number"]]
    with unixsock.bind_exclusive(path)[1] as guard, Program(start) as waiting:
        assert waiting.line() == "waits"
        guard.close()
        said = waiting.line()
        while said == "waits":
            said = waiting.line()
        assert said == f"pid {waiting.pid} listens at {path}"


@pytest.mark.parametrize("argument", ["{fd}", "no number"])
def test_a_command_that_cannot_be_run_leaves_no_socket_file(argument, path):
    status, errors = refused("exec_server.py", path, "/nowhere/server", argument)
    assert status == 1
    assert re.fullmatch(r"exec_server\.py: .*No such file.*\n", errors)
    assert os.listdir(os.path.dirname(path)) == ["a.sock.lock"]


@pytest.mark.parametrize(("arguments", "status"), [(["/nowhere/a.sock", "true"], 1), (["/nowhere/a.sock"], 2)])
def test_other_errors_of_exec_have_another_status(arguments, status):
    assert refused("exec_server.py", *arguments)[0] == status


def test_without_systemd_the_program_for_both_owns_its_path(path):
    with serving(path, ACTIVATED, path) as server:
        assert served_by(path) == server.pid
        assert refused("activated.py", path)[0] == os.EX_TEMPFAIL
        assert server.end(signal.SIGTERM)[0] == 0
    assert os.listdir(os.path.dirname(path)) == ["a.sock.lock"]


@pytest.mark.skipif(not (shutil.which("fuser") and shutil.which("ss")), reason="no fuser or no ss")
def test_the_pages_commands_find_the_owner(path):
    with Child() as owner:
        owner.do("sock, guard = unixsock.bind_exclusive(path)", path=path)
        command = block("fuser").replace("/run/app/app.sock", path)
        run = subprocess.run(["sh", "-ec", command], capture_output=True, text=True, timeout=PATIENCE, check=True)
    fuser, ss = run.stdout.split("\n", 1)[0], run.stdout
    assert set(re.findall(r"\d+", fuser.split("Netid")[0])) == {str(owner.pid)}
    assert f"pid={owner.pid}," in ss
