"""The examples do what they say, as programs of their own, and end without a traceback."""

import contextlib
import errno
import os
import re
import shutil
import signal
import socket
import subprocess
import sys

import pytest

from children import PATIENCE
from programs import EXAMPLES, Program, answer, refused

HELLO = "hello_http.py"
TWO_OWNERS = EXAMPLES / "two_owners.py"


@contextlib.contextmanager
def hello(path):
    """hello_http.py, listening at `path`."""
    # Where nothing from outside makes Python flush at once, or print what is not UTF-8.
    environment = {**os.environ, "PYTHONUNBUFFERED": "", "PYTHONIOENCODING": "utf-8:strict"}
    with Program([sys.executable, str(EXAMPLES / HELLO), path], env=environment) as server:
        assert server.line() == f"pid {server.pid} listens at {path}"
        yield server


@pytest.mark.parametrize("name", ["a.sock", "it's a.sock", os.fsdecode(b"\xff.sock")])
def test_the_printed_commands_work_as_they_stand(directory, name):
    if sys.platform == "darwin" and not name.isprintable():
        pytest.skip("file names are UTF-8 here")
    with hello(str(directory / name)) as server:
        for says, program in (("Ask it", "curl"), ("    or", "python3")):
            said, _, command = server.line().partition(": ")
            assert said == says
            assert command.startswith(f"{program} ")
            if shutil.which(program):
                environment = {**os.environ, "no_proxy": "*"}
                asked = subprocess.run(
                    ["sh", "-c", command], env=environment, capture_output=True, timeout=PATIENCE, check=True
                )
                assert f"Hello from pid {server.pid}\n" in asked.stdout.decode()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_server_ends_cleanly_on_a_signal_with_a_client_that_sends_nothing(path, number):
    with hello(path) as server, socket.socket(socket.AF_UNIX) as silent:
        silent.connect(path)
        answer(path)  # so that the silent one has been accepted, too
        status, errors = server.end(number)
    assert status == 0
    assert re.fullmatch(r'local - - \[.*\] "GET / HTTP/1.1" 200 -\n', errors)
    assert not os.path.exists(path)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("x" * 108, os.strerror(errno.ENAMETOOLONG)),
        ("missing/a.sock", os.strerror(errno.ENOENT)),
        ("two\nlines/a.sock", os.strerror(errno.ENOENT)),
        ("", "must end in a file name"),
    ],
)
def test_a_path_that_cannot_be_had_is_refused_in_one_line(directory, name, reason):
    status, errors = refused(HELLO, f"{directory}/{name}")
    assert status == 1
    assert re.fullmatch(rf"hello_http\.py: .*{reason}.*\n", errors)
    assert os.listdir(directory) == []


def test_without_a_path_the_usage_is_shown_and_an_empty_one_is_refused():
    status, errors = refused(HELLO)
    assert status == 2
    assert errors.startswith("usage: hello_http.py [-h] PATH\n")
    assert "Traceback" not in errors
    assert refused(HELLO, "") == (1, "hello_http.py: path is empty\n")


def play(program, directory):
    """Run two_owners.py, or a variant; its exit status and output. Its temporary directories go to `directory`."""
    environment = {**os.environ, "TMPDIR": str(directory)}
    run = subprocess.run(
        [sys.executable, str(program)], env=environment, capture_output=True, timeout=PATIENCE, check=False
    )
    assert run.stderr == b""
    return run.returncode, run.stdout.decode()


def test_two_owners_sees_both_usual_ways_lose_and_bind_exclusive_not_and_leaves_nothing(directory):
    status, output = play(TWO_OWNERS, directory)
    assert status == 0
    assert re.findall(r"^(\w.*)$|=> (.*)$", output, re.MULTILINE) == [
        ("unlink, then bind", ""),
        ("", "a running server loses its path; after a crash the next start works"),
        ("bind alone", ""),
        ("", "a running server keeps its path; after a crash the next start fails"),
        ("bind_exclusive", ""),
        ("", "a running server keeps its path; after a crash the next start works"),
    ]
    assert os.listdir(directory) == []
    pids = {int(pid) for pid in re.findall(r"(?:start|kill -9) +pid (\d+)", output)}
    assert len(pids) == 9
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


@pytest.mark.parametrize("worse", ["unlink_then_bind", "bind_alone"])
def test_two_owners_exits_1_when_bind_exclusive_is_no_better_than_the_others(directory, worse):
    program = directory / "variant.py"
    text = TWO_OWNERS.read_text()
    assert text.count("unixsock.bind_exclusive") == 1
    program.write_text(text.replace("unixsock.bind_exclusive", worse))
    assert play(program, directory)[0] == 1
