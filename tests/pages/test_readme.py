"""README.md: its code and its first command run as printed.

The second command is the test suite itself, which .ci/run takes out of README.md and runs.
"""

import os
import re
import signal
import socket
import subprocess
import sys

import pytest

import unixsock
from children import PATIENCE
from programs import AS_TYPED, ROOT, Program, answer

README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
[CODE] = [text for kind, text in BLOCKS if kind == "python"]
[REFUSAL] = [text for kind, text in BLOCKS if kind == "text"]
COMMANDS = [text for kind, text in BLOCKS if kind == "sh"]


def test_the_first_command_serves_from_the_clone_and_ends_on_ctrl_c(path):
    # As printed but for the path: somebody may be trying the command itself on this machine.
    assert COMMANDS[0].count("/tmp/hello.sock") == 1
    command = COMMANDS[0].replace("/tmp/hello.sock", f"'{path}'")
    with Program(["sh", "-c", command], cwd=ROOT, env=AS_TYPED) as shell:
        says = re.fullmatch(r"pid (\d+) listens at (.*)", shell.line())
        assert says[2] == path
        assert answer(path) == f"Hello from pid {says[1]}\n"
        errors = shell.end(signal.SIGINT)[1]
    assert "Traceback" not in errors
    assert not os.path.exists(path)


def test_the_second_command_is_the_one_that_continuous_integration_runs():
    assert [command for command in COMMANDS if "pytest" in command] == COMMANDS[1:]
    assert [command.count("\n") for command in COMMANDS] == [1, 1]
    assert re.search(r"/pytest/.* README\.md", (ROOT / ".ci" / "run").read_text(encoding="utf-8"))


@pytest.mark.skipif(not os.path.exists("/proc/locks"), reason="printed as on Linux, which tells the owner's pid")
def test_the_code_serves_a_client_and_a_second_copy_prints_what_stands_there(directory, path):
    assert "/tmp/greet.sock" in CODE
    program = directory / "readme.py"
    program.write_text(CODE.replace("/tmp/greet.sock", path))
    package = os.path.dirname(os.path.dirname(unixsock.__file__))  # PYTHONPATH may be relative, and we go elsewhere
    run = {"cwd": directory, "env": {**os.environ, "PYTHONPATH": package}}
    argv = [sys.executable, "-u", str(program)]  # -u: its line comes at once through a pipe, too
    with Program(argv, **run) as first:
        assert first.line() == f"listening at {path}"
        second = subprocess.run(argv, **run, capture_output=True, timeout=PATIENCE, check=False, text=True)
        refusal = REFUSAL.replace("/tmp/greet.sock", path).replace("pid 7101", f"pid {first.pid}")
        assert (second.returncode, second.stderr) == (1, refusal)
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(PATIENCE)
            client.connect(path)
            assert client.recv(100) == b"hello\n"
        assert first.wait() == (0, "")
    assert not os.path.exists(path)
