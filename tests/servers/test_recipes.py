"""Each server's recipe serves, is alone, comes back after kill -9, and ends cleanly, in a process of its own."""

import contextlib
import importlib.metadata
import importlib.util
import os
import re
import select
import signal
import socket
import sys

import pytest

import unixsock
from children import PATIENCE, Child, ChildError
from markdown import block, read
from observed import mode_of
from programs import (
    ELSEWHERE,
    EXAMPLES,
    Connection,
    Program,
    answer,
    assert_refused,
    assert_says_what_is_wrong,
    served_by,
    until_refused,
)

# Each program, and the module that it needs beside us.
RECIPES = {
    "with_aiohttp.py": "aiohttp",
    "with_anyio.py": "anyio",
    "with_asyncio.py": "asyncio",
    "with_asyncio.py on uvloop": "uvloop",
    "with_gunicorn.py": "gunicorn",
    "with_hypercorn.py": "hypercorn",
    "with_pyzmq.py": "zmq",
    "with_sanic.py": "sanic",
    "with_tornado.py": "tornado",
    "with_trio.py": "trio",
    "with_twisted.py": "twisted",
    "with_uvicorn.py": "uvicorn",
    "with_uvicorn.py on uvloop": "uvloop",
    "with_waitress.py": "waitress",
    "with_werkzeug.py": "flask",
}
PROGRAMS = sorted({recipe.split()[0] for recipe in RECIPES})
HTTP = [recipe for recipe in RECIPES if recipe != "with_pyzmq.py"]
# Those that answer the requests in progress before they end. The others cut them off.
DRAINING = {"aiohttp", "gunicorn", "hypercorn", "sanic", "uvicorn", "waitress"}
# What is done first. uvicorn takes uvloop where that is installed.
SETUP = {
    "with_asyncio.py on uvloop": "import asyncio.events, uvloop; asyncio.events.new_event_loop = uvloop.new_event_loop",
    "with_uvicorn.py": "import sys; sys.modules['uvloop'] = None",
}
RUN = "import runpy, sys; del sys.argv[0]; runpy.run_path(sys.argv[0], run_name='__main__')"
# UNIXSOCK_RECIPES=all: what is not installed fails.
ALL = os.environ.get("UNIXSOCK_RECIPES") == "all"


def installed(module):
    """Whether it is there; anyio before 4.14 cuts off the clients of a Unix socket."""
    if importlib.util.find_spec(module) is None:
        return False
    return module != "anyio" or [int(part) for part in importlib.metadata.version(module).split(".")[:2]] >= [4, 14]


def needs(recipe):
    if not ALL and not installed(RECIPES[recipe]):
        pytest.skip(f"{RECIPES[recipe]} is not installed, or too old")
    return recipe


@pytest.fixture(params=RECIPES)
def recipe(request):
    return needs(request.param)


@contextlib.contextmanager
def serving(recipe, path, first="", run=RUN, **popen):
    """The recipe, listening at `path`, after the code `first`."""
    environment = {**os.environ, "XDG_RUNTIME_DIR": os.path.dirname(path)}  # where gunicorn would have a socket
    code = f"{SETUP.get(recipe, '')}\n{first}\n{run}"
    command = [sys.executable, "-c", code, str(EXAMPLES / recipe.split()[0]), path]
    with Program(command, env=environment, **popen) as server:
        assert server.line() == f"pid {server.pid} listens at {path}"
        yield server


def asked(recipe, path):
    """What the recipe answers."""
    if recipe != "with_pyzmq.py":
        return answer(path)
    import zmq  # noqa: PLC0415 - where it is installed

    with zmq.Context() as context, context.socket(zmq.REQ) as client:
        client.setsockopt(zmq.RCVTIMEO, int(1000 * PATIENCE))
        client.connect(f"ipc://{path}")
        client.send(b"")
        return client.recv().decode()


def assert_answers(server, recipe, path):
    """It, or a worker of it, answers, and goes on to do so: sanic, 25.12.1, answers before it is ready for signals."""
    for _ in range(2):
        worker = re.fullmatch(r"Hello from pid (\d+)\n", asked(recipe, path))[1]
        assert os.getpgid(int(worker)) == server.pid


@pytest.mark.parametrize("recipe", HTTP)
def test_clients_are_answered(recipe, path):
    with serving(needs(recipe), path) as server:
        assert_answers(server, recipe, path)
        with contextlib.closing(Connection(path)) as client:
            for _ in range(2):  # over one connection, where the server keeps it open
                client.request("GET", "/")
                response = client.getresponse()
                assert response.read().startswith(b"Hello from pid ")


@pytest.mark.parametrize("program", PROGRAMS)
def test_it_says_how_it_is_called_and_what_is_wrong_with_a_path(program):
    assert_says_what_is_wrong(needs(program))


def test_a_second_copy_is_refused_and_one_that_waits_serves_after_kill_9(recipe, path):
    # It tells of each pause: it has been refused by then.
    told = "import time; sleep = time.sleep; time.sleep = lambda _: (print('waits', flush=True), sleep(0.1))"
    program = recipe.split()[0]
    with serving(recipe, path) as first:
        assert_refused(first.pid, path, program)
        assert_answers(first, recipe, path)
        command = [sys.executable, "-c", f"{told}\n{RUN}", str(EXAMPLES / program), path]
        with Program(command) as second:
            assert second.line() == "waits"
            assert first.end(signal.SIGKILL)[0] == -signal.SIGKILL
            while (said := second.line()) == "waits":
                pass
            assert said == f"pid {second.pid} listens at {path}"
            assert_answers(second, recipe, path)


# A mode that is wrong for an instant is hard to catch from outside, so the program tells of each chmod(2) of the path.
WATCHED = """
import os, sys

def tell(event, arguments):
    if event == "os.chmod" and arguments[0] in (sys.argv[1], os.fsencode(sys.argv[1])):
        print("chmod", oct(arguments[1]), file=sys.stderr)

sys.addaudithook(tell)
"""


@pytest.mark.parametrize(("send", "number", "silent"), [(os.killpg, signal.SIGINT, 0), (os.kill, signal.SIGTERM, 1)])
def test_a_server_ends_with_only_the_lock_file_left_and_has_no_other_mode_at_any_moment(
    recipe, send, number, silent, path
):
    for clients in (0, silent):  # that send nothing
        with serving(recipe, path, WATCHED) as server, socket.socket(socket.AF_UNIX) as client:
            if clients:
                client.connect(path)
            assert mode_of(path) == 0o660
            assert_answers(server, recipe, path)  # so that the silent one has been accepted, too
            assert mode_of(path) == 0o660
            send(server.pid, number)
            status, errors = server.wait()
        assert status == 0, errors
        assert "Traceback" not in errors
        assert "Bad file descriptor" not in errors
        assert {*re.findall("^chmod (.*)", errors, re.MULTILINE)} <= {"0o660"}
        assert os.listdir(os.path.dirname(path)) == ["a.sock.lock"]


# Runs a program whose first answer is held back: it writes a byte to `held`, and waits for one from `release`.
HELD = """
import ast, asyncio, os, sys

[_, program, path] = sys.argv
sys.argv = [program, path]
ticket, held, release = {ticket}, {held}, {release}

def is_first():
    try:
        return os.read(ticket, 1)
    except BlockingIOError:
        return False

def hold():
    if is_first():
        os.write(held, b".")
        os.read(release, 1)

async def hold_in_loop():
    if is_first():
        os.write(held, b".")
        if "trio" in program:
            import trio
            await trio.lowlevel.wait_readable(release)
        else:
            readable = asyncio.Event()
            asyncio.get_running_loop().add_reader(release, readable.set)
            await readable.wait()

class Hold(ast.NodeTransformer):
    def visit_FunctionDef(self, function):
        for i, statement in enumerate(function.body):
            if any(getattr(node, "value", "") == "Hello from pid " for node in ast.walk(statement)):
                in_loop = isinstance(function, ast.AsyncFunctionDef) or "tornado" in program
                if in_loop:
                    function = ast.AsyncFunctionDef(**vars(function))
                wait = "await hold_in_loop()" if in_loop else "hold()"
                function.body[i:i] = compile(wait, "", "exec", ast.PyCF_ONLY_AST | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT).body
                break
        return self.generic_visit(function)

    visit_AsyncFunctionDef = visit_FunctionDef

main = sys.modules["__main__"]
main.__file__ = program
exec(compile(Hold().visit(ast.parse(open(program).read())), program, "exec"), vars(main))
"""


@contextlib.contextmanager
def in_progress(recipe, path):
    """The recipe, a client whose request is in progress, and how to let it be answered."""
    pipes = [os.pipe() for _ in range(3)]
    (ticket, give), (held, _), (_, release) = pipes
    numbers = {"ticket": ticket, "held": pipes[1][1], "release": pipes[2][0]}
    os.set_blocking(ticket, False)
    run = HELD.format(**numbers)
    with contextlib.ExitStack() as stack:
        for number in sum(pipes, ()):
            stack.callback(os.close, number)
        server = stack.enter_context(serving(recipe, path, run=run, pass_fds=[*numbers.values()]))
        assert_answers(server, recipe, path)
        os.write(give, b".")
        client = stack.enter_context(contextlib.closing(Connection(path)))
        client.request("GET", "/")
        assert select.select([held], [], [], PATIENCE)[0]
        yield server, client, lambda: os.write(release, b".")


@pytest.mark.parametrize("recipe", [recipe for recipe in HTTP if recipe != "with_twisted.py"])
def test_while_a_server_finishes_a_request_new_clients_are_refused_or_answered(recipe, path):
    with in_progress(needs(recipe), path) as (server, client, let_it_answer):
        os.kill(server.pid, signal.SIGTERM)
        until_refused(path)
        if RECIPES[recipe] in DRAINING or "uvicorn" in recipe:
            assert not select.select([client.sock], [], [], 0)[0]  # still in progress
            let_it_answer()
            assert client.getresponse().read().startswith(b"Hello from pid ")
            client.close()
        assert server.wait()[0] == 0


def test_workers_that_outlive_a_killed_gunicorn_keep_path_and_lock_until_they_end(path):
    recipe = needs("with_gunicorn.py")
    with serving(recipe, path) as server:
        assert_answers(server, recipe, path)
        os.killpg(server.pid, signal.SIGSTOP)  # the workers would notice, and end
        os.kill(server.pid, signal.SIGKILL)
        with pytest.raises(unixsock.AddressInUseError):
            unixsock.bind_exclusive(path)
        os.killpg(server.pid, signal.SIGCONT)
        server.wait()  # for the end of its output, and so of all who hold that
    with serving(recipe, path) as server:
        assert_answers(server, recipe, path)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_pages_program_for_uvicorn_is_alone_and_ends_cleanly(number, path, directory):
    needs("with_uvicorn.py")
    hello = (EXAMPLES / "with_uvicorn.py").read_text().partition("async def hello(")
    (directory / "myapp.py").write_text(f"{hello[0]}async def app({hello[2].partition('def main(')[0]}")
    code = block(read("docs/recipes.md"), "from myapp import app")
    code = code.replace("app.sock", path).replace("timeout=5", "timeout=0")
    (directory / "serve.py").write_text(code.replace("    uvicorn.S", "    print('bound', flush=True)\n    uvicorn.S"))
    command = [sys.executable, "serve.py"]
    with Program(command, cwd=directory, env=ELSEWHERE) as server:
        assert server.line() == "bound"
        assert served_by(path) == server.pid
        with Program(command, cwd=directory, env=ELSEWHERE) as copy:
            status, errors = copy.wait()
            assert status == 1
            assert re.fullmatch(rf"not started: .*taken by pid {server.pid}\b.*\n", errors)
        assert server.end(number)[0] == 0
    assert not os.path.exists(path)


def test_every_recipe_is_tried_and_stands_in_the_table_with_a_line_that_it_has():
    row = r"^\| .* \| `([^`]+)` \| .* \| \[(\w+\.py)\]\(examples/\2\) \|$"
    rows = re.findall(row, read("docs/recipes.md"), re.MULTILINE)
    listed = [program for _, program in rows]
    assert sorted(listed) == ["hello_http.py", *PROGRAMS]
    assert sorted(file.name for file in EXAMPLES.glob("with_*.py")) == PROGRAMS
    for line, program in rows:
        assert line in (EXAMPLES / program).read_text()


# What applications put in the place of the interpreter's sockets and clocks; and what lets another greenlet run.
AGAIN = "[sys.modules.pop(name) for name in list(sys.modules) if name.startswith('unixsock')]; import unixsock"
REPLACED = {
    "eventlet": ("import eventlet; eventlet.monkey_patch()", "eventlet.spawn"),
    "gevent, after the import": ("import gevent.monkey; gevent.monkey.patch_all()", "gevent.spawn"),
    "gevent, before the import": (f"import gevent.monkey; gevent.monkey.patch_all(); {AGAIN}", "gevent.spawn"),
    "PySocks": ("import socks; socket.socket = socks.socksocket", None),
    "a default timeout": ("socket.setdefaulttimeout(0.001)", None),
    "no default timeout": ("socket.setdefaulttimeout(0)", None),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("replace", "spawn"), REPLACED.values(), ids=REPLACED)
def test_sockets_that_the_application_has_replaced_change_nothing(replace, spawn, path):
    module = re.match(r"import (\w+)", replace)
    if module and not ALL and not installed(module[1]):
        pytest.skip(f"{module[1]} is not installed")
    with Child() as plain, Child("-W", "ignore") as replaced:
        replaced.do(replace)
        plain.do("sock, guard = unixsock.bind_exclusive(path)", path=path)
        with pytest.raises(ChildError) as refusal:
            replaced.do("unixsock.bind_exclusive(path)", path=path)
        assert refusal.value.kind == "AddressInUseError"
        plain.kill()
        replaced.do("sock, guard = unixsock.bind_exclusive(path)", path=path)
        if spawn:  # who waits has to let the other greenlet run, which closes the guard
            replaced.do(f"{spawn}(guard.close); sock, guard = unixsock.bind_exclusive(path, timeout=20)", path=path)
        with contextlib.closing(socket.socket(socket.AF_UNIX)) as client:
            client.connect(path)
        replaced.do("guard.close()")
        assert os.listdir(os.path.dirname(path)) == ["a.sock.lock"]
