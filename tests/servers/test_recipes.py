"""Each server's recipe serves, is alone, comes back after kill -9, and ends cleanly, in a process of its own."""

import contextlib
import importlib.metadata
import importlib.util
import os
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys

import pytest

import unixsock
from children import PATIENCE
from programs import EXAMPLES, Connection, Program, answer, refused

# Each program, and the module that it needs beside us.
RECIPES = {
    "hello_http.py": "http.server",
    "with_aiohttp.py": "aiohttp",
    "with_anyio.py": "anyio",
    "with_asyncio.py": "asyncio",
    "with_gunicorn.py": "gunicorn",
    "with_hypercorn.py": "hypercorn",
    "with_sanic.py": "sanic",
    "with_tornado.py": "tornado",
    "with_trio.py": "trio",
    "with_twisted.py": "twisted",
    "with_uvicorn.py": "uvicorn",
    "with_waitress.py": "waitress",
    "with_werkzeug.py": "flask",
}
# UNIXSOCK_RECIPES=all: what is not installed fails.
ALL = os.environ.get("UNIXSOCK_RECIPES") == "all"
PAGE = EXAMPLES.parent / "recipes.md"


def installed(module):
    """Whether it is there; anyio before 4.14 cuts off the clients of a Unix socket."""
    if importlib.util.find_spec(module) is None:
        return False
    return module != "anyio" or [int(part) for part in importlib.metadata.version(module).split(".")[:2]] >= [4, 14]


def needs(program):
    if not ALL and not installed(RECIPES[program]):
        pytest.skip(f"{RECIPES[program]} is not installed, or too old")


@pytest.fixture(params=RECIPES)
def recipe(request):
    needs(request.param)
    return request.param


@contextlib.contextmanager
def serving(program, path, *options):
    """The recipe, listening at `path`; `options` are for the interpreter."""
    environment = {**os.environ, "XDG_RUNTIME_DIR": os.path.dirname(path)}  # where gunicorn has a socket of its own
    with Program([sys.executable, *options, str(EXAMPLES / program), path], env=environment) as server:
        assert server.line() == f"pid {server.pid} listens at {path}"
        yield server


def assert_answers(server, path):
    """It, or a worker of it, answers, and goes on to do so: sanic, 25.12.1, answers before it is ready for signals."""
    for _ in range(2):
        worker = re.fullmatch(r"Hello from pid (\d+)\n", answer(path))[1]
        assert os.getpgid(int(worker)) == server.pid


def test_clients_are_answered(recipe, path):
    with serving(recipe, path) as server:
        assert_answers(server, path)
        with contextlib.closing(Connection(path)) as client:
            for _ in range(2):  # over one connection, where the server keeps it open
                client.request("GET", "/")
                response = client.getresponse()
                assert response.getheader("Content-Type").startswith("text/plain")
                assert response.read().startswith(b"Hello from pid ")
        if shutil.which("curl"):
            asked = subprocess.run(
                ["curl", "--silent", "--show-error", "--unix-socket", path, "http://localhost/"],
                env={**os.environ, "no_proxy": "*"},
                capture_output=True,
                timeout=PATIENCE,
                check=True,
            )
            assert asked.stdout.startswith(b"Hello from pid ")


def test_a_second_copy_says_in_one_line_who_has_the_path_and_the_first_one_serves_on(recipe, path):
    with serving(recipe, path) as server:
        status, errors = refused(recipe, path)
        assert status == 1
        assert re.fullmatch(rf"{recipe}: .*taken by.*{re.escape(path)}.*\n", errors)
        if os.path.exists("/proc/locks"):
            assert f"pid {server.pid})" in errors
        assert_answers(server, path)


def test_a_path_that_cannot_be_had_is_refused_in_one_line(recipe):
    assert refused(recipe, "") == (1, f"{recipe}: path is empty\n")


def test_without_a_path_it_says_how_it_is_called(recipe):
    status, errors = refused(recipe)
    assert status != 0
    assert f"{recipe} " in errors
    assert "PATH" in errors
    assert "Traceback" not in errors


def test_after_kill_9_a_new_copy_serves(recipe, path):
    with serving(recipe, path) as server:
        assert server.end(signal.SIGKILL)[0] == -signal.SIGKILL
    assert os.path.exists(path)
    with serving(recipe, path) as server:
        assert_answers(server, path)


def ctrl_c(server):
    os.killpg(server.pid, signal.SIGINT)


def terminate(server):
    os.kill(server.pid, signal.SIGTERM)


@pytest.mark.parametrize("stop", [ctrl_c, terminate])
def test_a_stopped_server_leaves_the_lock_file_alone_and_a_new_copy_serves(recipe, stop, path):
    for _ in range(2):
        with serving(recipe, path) as server:
            assert_answers(server, path)
            stop(server)
            status, errors = server.wait()
        assert status == 0, errors
        assert "Traceback" not in errors
        assert "Bad file descriptor" not in errors
        assert os.listdir(os.path.dirname(path)) == ["a.sock.lock"]


def test_a_client_that_sends_nothing_does_not_keep_the_server_from_ending(recipe, path):
    with serving(recipe, path) as server, socket.socket(socket.AF_UNIX) as client:
        client.connect(path)
        assert_answers(server, path)  # so that the silent one has been accepted, too
        terminate(server)
        status, errors = server.wait()
    assert status == 0, errors
    assert "Traceback" not in errors


# A mode that is wrong for an instant is hard to catch from outside, so the program tells of each chmod(2) of the name.
WATCHED = """
import os, runpy, sys

def tell(event, arguments):
    if event == "os.chmod" and arguments[0] in (path, os.fsencode(path)):
        print("chmod", oct(arguments[1]), file=sys.stderr)

[_, program, path] = sys.argv
del sys.argv[0]
sys.addaudithook(tell)
runpy.run_path(program, run_name="__main__")
"""


@pytest.mark.parametrize("program", [program for program in RECIPES if program.startswith("with_")])
def test_the_mode_is_at_no_moment_another_than_was_asked_for(program, path):
    needs(program)
    with serving(program, path, "-c", WATCHED) as server:
        assert stat.S_IMODE(os.stat(path).st_mode) == 0o660
        assert_answers(server, path)
        assert stat.S_IMODE(os.stat(path).st_mode) == 0o660
        terminate(server)
        errors = server.wait()[1]
    assert set(re.findall("^chmod (.*)", errors, re.MULTILINE)) <= {"0o660"}


def test_workers_that_outlive_a_killed_gunicorn_keep_name_and_lock_until_they_end(path):
    needs("with_gunicorn.py")
    with serving("with_gunicorn.py", path) as server:
        assert_answers(server, path)
        os.killpg(server.pid, signal.SIGSTOP)  # the workers would notice, and end
        os.kill(server.pid, signal.SIGKILL)
        with pytest.raises(unixsock.AddressInUseError, match="taken by"):
            unixsock.bind_exclusive(path)
        os.killpg(server.pid, signal.SIGCONT)
        server.wait()  # for the end of its output, and so of all who hold that
    with serving("with_gunicorn.py", path) as server:
        assert_answers(server, path)


def test_every_recipe_is_tried_and_stands_in_the_table_with_a_line_that_it_has():
    rows = re.findall(r"^\| .* \| `([^`]+)` \| .* \| \[(\w+\.py)\]\(examples/\2\) \|$", PAGE.read_text(), re.MULTILINE)
    listed = [program for _, program in rows]
    assert sorted(listed) == sorted(RECIPES)
    assert {name for name in RECIPES if name.startswith("with_")} == {file.name for file in EXAMPLES.glob("with_*.py")}
    for line, program in rows:
        assert line in (EXAMPLES / program).read_text()
