"""What the examples that are servers have in common: a second copy, a crash, a signal, and a call with a wrong path."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys

import pytest

from children import PATIENCE
from observed import mode_of
from programs import EXAMPLES, Program, answer, assert_refused, assert_says_what_is_wrong, served_by

# A server that takes the descriptor that it is told.
TAKES_A_NUMBER = r"""if True:
    import os, socket, sys
    assert "LISTEN_PID" not in os.environ
    sock = socket.socket(fileno=int(sys.argv[1]))
    print(f"pid {os.getpid()} listens at {sock.getsockname()}", flush=True)
    while True:
        with sock.accept()[0] as client:
            client.recv(4096)
            client.sendall(f"HTTP/1.0 200 OK\r\n\r\nHello from pid {os.getpid()}\n".encode())
"""
EXEC = "exec_server.py"
# Each server, and what it is called with after the path.
SERVERS = {
    "activated.py": [],
    f"{EXEC} by number": [sys.executable, "-c", TAKES_A_NUMBER, "{fd}"],
    f"{EXEC} by systemd's protocol": [sys.executable, str(EXAMPLES / "activated.py"), "other"],
    "hello_http.py": [],
    "prefork.py": [],
    "spawn.py": [],
    "standby.py": [],
    "upgrade.py": [],
}
# A second copy of these is not just refused: it hands its work over, or asks the first. They have tests of their own.
OTHERS = {"one_instance.py", "on_demand.py"}
PROGRAMS = {file.name for file in EXAMPLES.glob("*.py") if not file.name.startswith("with_")}


def test_every_example_that_needs_no_other_package_is_tried():
    assert {server.split()[0] for server in SERVERS} == PROGRAMS - OTHERS


@pytest.mark.parametrize("name", sorted(PROGRAMS - {"on_demand.py"}))  # whose daemon has a log instead
def test_it_says_how_it_is_called_and_what_is_wrong_with_a_path(name):
    assert_says_what_is_wrong(name, *(["true"] if name in (EXEC, "one_instance.py") else []))


@pytest.mark.parametrize("server", SERVERS)
def test_a_second_copy_is_refused_after_kill_9_the_next_one_serves_and_sigterm_ends_it_cleanly(server, path):
    name, arguments = server.split()[0], SERVERS[server]
    for number in (signal.SIGKILL, signal.SIGTERM):
        with Program([sys.executable, str(EXAMPLES / name), path, *arguments]) as running:
            assert running.line() == f"pid {running.pid} listens at {path}"
            assert name == "hello_http.py" or mode_of(path) == 0o660
            if name != "standby.py":  # which waits
                assert_refused(running.pid, path, name, *arguments)
            assert os.getpgid(served_by(path)) == running.pid  # itself, or a worker
            status, errors = running.end(number)
    assert "Traceback" not in errors
    if name == EXEC:  # what it has become has no guard
        assert os.path.exists(path)
    else:
        assert (status, os.listdir(os.path.dirname(path))) == (0, ["a.sock.lock"])


@pytest.mark.parametrize("name", ["a.sock", "it's a.sock", os.fsdecode(b"\xff.sock")])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_printed_command_works_as_it_stands_and_a_silent_client_does_not_delay_the_end(directory, name, number):
    if sys.platform == "darwin" and not name.isprintable():
        pytest.skip("file names are UTF-8 here")
    path = str(directory / name)
    # Where nothing from outside makes Python flush at once, or print what is not UTF-8.
    environment = {**os.environ, "PYTHONUNBUFFERED": "", "PYTHONIOENCODING": "utf-8:strict", "no_proxy": "*"}
    run = [sys.executable, str(EXAMPLES / "hello_http.py"), path]
    with Program(run, env=environment) as server, socket.socket(socket.AF_UNIX) as silent:
        assert server.line() == f"pid {server.pid} listens at {path}"
        says, _, command = server.line().partition(": ")
        assert says == "Ask it"
        silent.connect(path)
        assert answer(path) == f"Hello from pid {server.pid}\n"  # so the silent one has been accepted, too
        if shutil.which("curl"):
            asked = subprocess.run(
                ["sh", "-c", command], env=environment, capture_output=True, timeout=PATIENCE, check=True
            )
            assert asked.stdout.decode() == f"Hello from pid {server.pid}\n"
        status, errors = server.end(number)
    assert status == 0
    assert re.fullmatch(r'(local - - \[.*\] "GET / HTTP/1.1" 200 -\n)+', errors)
    assert not os.path.exists(path)
