"""gunicorn with the bind of docs/recipes.md, where gunicorn.conf.py finds it again: SIGHUP, and a second copy."""

import contextlib
import os
import re
import select
import signal
import sys

import pytest
from test_recipes import needs
from test_services import EXEC_SERVER

from children import PATIENCE, exit_of
from markdown import block, read
from programs import Program, served_by

RECIPES = read("docs/recipes.md")
APP = """
import os
def wsgi(environ, start_response):
    start_response("200 OK", [])
    return [f"Hello from pid {os.getpid()}\\n".encode()]
def post_fork(server, worker):
    print("worker", worker.pid, flush=True)
"""
GUNICORN = [sys.executable, "-m", "gunicorn", "--no-control-socket", "--graceful-timeout", "5", "app:wsgi"]


@pytest.fixture(params=["gunicorn.conf.py", "exec_server.py"])
def start(request, path, directory):
    """How to start gunicorn, with what the page has in app_socket.py and gunicorn.conf.py, or by exec_server.py."""
    needs("with_gunicorn.py")
    command = [*GUNICORN]
    conf = "from app import post_fork\n"
    if request.param == "gunicorn.conf.py":
        binds = block(RECIPES, "# app_socket.py")
        (directory / "app_socket.py").write_text(binds.replace("/run/app/app.sock", path))
        conf = block(RECIPES, "# gunicorn.conf.py") + conf
    else:
        command = [sys.executable, EXEC_SERVER, path, *GUNICORN, "--bind", "fd://{fd}"]
    (directory / "gunicorn.conf.py").write_text(conf)
    (directory / "app.py").write_text(APP)
    return lambda: Program(command, cwd=directory)


def worker(server):
    """The next worker that tells of its start."""
    return int(re.fullmatch(r"worker (\d+)", server.line())[1])


def test_at_sighup_gunicorn_reads_its_configuration_again_and_keeps_the_socket(start, path):
    with start() as server:
        first = worker(server)
        with contextlib.closing(exit_of(first)) as ended:
            assert served_by(path) == first
            inode = os.stat(path).st_ino
            os.kill(server.pid, signal.SIGHUP)
            second = worker(server)
            assert select.select([ended], [], [], PATIENCE)[0]
        assert served_by(path) == second
        assert os.stat(path).st_ino == inode
        with start() as copy:
            status, errors = copy.wait()
            assert status == os.EX_TEMPFAIL
            assert re.fullmatch(rf".*taken by pid {server.pid}\b.*{re.escape(path)}.*\n", errors)
        assert served_by(path) == second
        status, _ = server.end(signal.SIGTERM)
        assert status == 0
    assert not os.path.exists(path)
