"""How many clients may wait to be accepted: the servers that keep the queue as it is, and those that listen again."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from test_recipes import HTTP, needs, serving
from test_services import APP, EXEC_SERVER, LINES

from children import PATIENCE
from programs import Program, served_by

pytestmark = pytest.mark.skipif(shutil.which("ss") is None, reason="no ss")

# As recipes.md has it. The others keep the queue.
LISTENS_AGAIN = {
    "with_aiohttp.py": 128,
    "with_asyncio.py": 100,
    "with_asyncio.py on uvloop": 100,
    "with_hypercorn.py": 100,
    "with_sanic.py": 100,
    "with_twisted.py": 50,
    "with_uvicorn.py": 2048,
    "with_uvicorn.py on uvloop": 2048,
    "with_waitress.py": 1024,
}
ASKED = 7
SHORT = f"""
import unixsock
def with_a_short_queue(bind):
    return lambda path, **given: bind(path, **{{**given, "backlog": {ASKED}}})
unixsock.bind_exclusive = with_a_short_queue(unixsock.bind_exclusive)
"""


def as_the_system_allows(backlog):
    return min(backlog, int(Path("/proc/sys/net/core/somaxconn").read_text(encoding="utf-8")))


def queue(path):
    """The length of the queue of the socket that listens at `path`."""
    command = ["ss", "--no-header", "-xl", "src", path]
    run = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=True)
    return int(re.fullmatch(r"u_str LISTEN +\d+ +(\d+) .*\n", run.stdout)[1])


@pytest.mark.parametrize("recipe", HTTP)
def test_a_server_keeps_the_queue_or_listens_again_as_the_page_says(recipe, path):
    with serving(needs(recipe), path, SHORT):
        served_by(path)  # it listens, if it does
        assert queue(path) == as_the_system_allows(LISTENS_AGAIN.get(recipe, ASKED))


def test_gunicorns_recipe_has_the_queue_that_gunicorn_alone_has(path):
    from gunicorn.config import Backlog  # noqa: PLC0415 - where it is installed

    with serving(needs("with_gunicorn.py"), path):
        served_by(path)
        assert queue(path) == as_the_system_allows(Backlog.default)


@pytest.mark.parametrize("line", LINES, ids=lambda line: line.split()[0])
def test_a_server_behind_exec_has_a_queue_for_a_proxy(line, path, directory, monkeypatch):
    monkeypatch.setenv("PATH", os.path.dirname(sys.executable), prepend=os.pathsep)
    (directory / "app.py").write_text(APP)
    with Program([sys.executable, EXEC_SERVER, path, *shlex.split(line)], cwd=directory) as server:
        assert server.line() == "imported"
        served_by(path)
        assert queue(path) == as_the_system_allows(100 if "hypercorn" in line else 2048)
