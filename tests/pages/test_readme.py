"""README.md: its code and its first command run as printed, its short answers hold.

The second command is the test suite itself, which .ci/run takes out of README.md and runs.
"""

import asyncio
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

import unixsock
from children import PATIENCE, Child
from programs import Program, answer

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
COMMANDS = [text.rstrip("\n") for kind, text in BLOCKS if kind == "sh"]


def said_by(path):
    """All that the server at `path` sends."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(PATIENCE)
        client.connect(str(path))
        with client.makefile("rb") as stream:
            return stream.read()


def test_the_blocks_are_the_code_and_two_commands_of_one_line():
    assert [kind for kind, _ in BLOCKS] == ["python", "sh", "sh"]
    assert [len(command.splitlines()) for command in COMMANDS] == [1, 1]


def test_the_first_command_serves_from_the_clone_and_ends_on_ctrl_c(path):
    # As printed but for the path: somebody may be trying the command itself on this machine.
    assert COMMANDS[0].count("/tmp/hello.sock") == 1
    command = COMMANDS[0].replace("/tmp/hello.sock", path)
    # python3 is the Python under test where that goes by this name.
    search = os.path.dirname(sys.executable) + os.pathsep + os.environ["PATH"]
    with Program(["sh", "-c", command], cwd=ROOT, env={**os.environ, "PATH": search}) as shell:
        says = re.fullmatch(r"pid (\d+) listens at (.*)", shell.line())
        assert says[2] == path
        assert answer(path) == f"Hello from pid {says[1]}\n"
        errors = shell.end(signal.SIGINT)[1]
    assert "Traceback" not in errors
    assert not os.path.exists(path)


def test_the_second_command_is_the_one_that_continuous_integration_runs():
    assert [command for command in COMMANDS if "pytest" in command] == COMMANDS[1:]
    script = ROOT / ".ci" / "run"
    if not script.exists():
        pytest.skip("no .ci/run")
    assert re.search(r"/pytest/.* README\.md", script.read_text(encoding="utf-8"))


def test_the_code_serves_a_client_as_printed_and_refuses_a_second_copy(directory):
    program = directory / "readme.py"
    program.write_text(BLOCKS[0][1])
    package = os.path.dirname(os.path.dirname(unixsock.__file__))  # PYTHONPATH may be relative, and we go elsewhere
    run = {"cwd": directory, "env": {**os.environ, "PYTHONPATH": package}}
    argv = [sys.executable, "-u", str(program)]  # -u: its line comes at once through a pipe, too
    with Program(argv, **run) as first:
        assert first.line() == f"listening at {os.path.realpath(directory)}/hello.sock"
        second = subprocess.run(argv, **run, capture_output=True, timeout=PATIENCE, check=False)
        assert second.returncode == 1
        assert re.fullmatch(rb"not started: .*Address already in use.*hello\.sock'\n", second.stderr)
        assert said_by(directory / "hello.sock") == b"hello\n"
        assert first.wait() == (0, "")
    assert sorted(os.listdir(directory)) == ["hello.sock.lock", "readme.py"]


def test_asyncio_serves_on_a_socket_that_is_handed_over(path):
    assert "asyncio.start_unix_server(handler, sock=sock)" in README
    program = """
import asyncio, sys, unixsock

async def handler(reader, writer):
    writer.write(b"hello")
    writer.close()
    served.set()

async def main(sock):
    global served
    served = asyncio.Event()
    server = await asyncio.start_unix_server(handler, sock=sock)
    async with server:
        print("serves", flush=True)
        await served.wait()

sock, guard = unixsock.bind_exclusive(sys.argv[1])
with guard:
    asyncio.run(main(sock))
"""
    with Program([sys.executable, "-c", program, path]) as server:
        assert server.line() == "serves"
        assert said_by(path) == b"hello"
        assert server.wait() == (0, "")
    assert not os.path.exists(path)


@pytest.mark.skipif(sys.version_info < (3, 13), reason="asyncio unlinks the name from Python 3.13 on")
@pytest.mark.parametrize("cleans_up", [True, False])
def test_asyncio_leaves_the_name_to_the_guard_where_it_is_told_so(path, cleans_up):
    assert "`cleanup_socket=False`" in README

    async def serve_and_stop(sock):
        server = await asyncio.start_unix_server(print, sock=sock, cleanup_socket=cleans_up)
        server.close()
        await server.wait_closed()

    sock, guard = unixsock.bind_exclusive(path)
    with guard:
        asyncio.run(serve_and_stop(sock))
        assert os.path.exists(path) != cleans_up


def test_the_workers_of_a_pool_that_close_the_guard_first_do_not_hold_the_name(path):
    assert "`initializer=guard.close`" in README
    with Child() as owner:
        owner.do("import multiprocessing")
        owner.do("sock, guard = unixsock.bind_exclusive(path)", path=path)
        owner.do("pool = multiprocessing.get_context('fork').Pool(1, initializer=guard.close)")
        assert owner.value("pool.apply(os.getpid)") != owner.pid
        assert os.path.exists(path)
        owner.do("guard.close()")
        assert not os.path.exists(path)
        unixsock.bind_exclusive(path)[1].close()
        owner.do("pool.terminate(); pool.join()")


def test_another_user_cannot_start_at_the_same_path(directory, path, user):
    unixsock.bind_exclusive(path)[1].close()
    if os.getuid() == 0:
        directory.chmod(0o777)
    else:
        os.chmod(path + ".lock", 0)  # as the lock file's bits look to any other user
    start = "try: unixsock.bind_exclusive(path)\nexcept PermissionError as error: _ = error.filename"
    assert user.do(start, path=path) == path + ".lock"
