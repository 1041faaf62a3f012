"""README.md: its code and the command that starts a server run as printed.

The other two commands need a package index: .ci/run takes them out of README.md and runs them.
"""

import os
import re
import signal
import subprocess
import sys

import pytest

from children import PATIENCE
from markdown import blocks, read
from programs import AS_TYPED, ELSEWHERE, ROOT, Program, answer, received

README = read("README.md")
[CODE] = blocks(README, "python")
[REFUSAL] = blocks(README, "text")
COMMANDS = blocks(README, "sh")
[SERVE] = [command for command in COMMANDS if "pip install" not in command]


def test_the_command_that_starts_a_server_serves_from_the_clone_until_ctrl_c(path):
    # As printed but for the path: somebody may be trying the command itself on this machine.
    assert SERVE.count("/tmp/hello.sock") == 1
    command = SERVE.replace("/tmp/hello.sock", f"'{path}'")
    with Program(["sh", "-c", command], cwd=ROOT, env=AS_TYPED) as shell:
        says = re.fullmatch(r"pid (\d+) listens at (.*)", shell.line())
        assert says[2] == path
        assert answer(path) == f"Hello from pid {says[1]}\n"
        errors = shell.end(signal.SIGINT)[1]
    assert "Traceback" not in errors
    assert not os.path.exists(path)


def test_the_commands_that_install_are_those_that_continuous_integration_runs():
    assert [command.count("\n") for command in COMMANDS] == [1] * len(COMMANDS)
    assert "pytest" in "".join({*COMMANDS} - {SERVE})
    assert re.search(r"/pip install/.* README\.md", read(".ci/run"))


@pytest.mark.parametrize("name", re.findall(r"`[^`\n]*?((?:tests|docs)/[\w/.]+)[^`\n]*`", README))
def test_a_command_within_the_text_names_what_there_is(name):
    assert (ROOT / name).exists()


@pytest.mark.skipif(not os.path.exists("/proc/locks"), reason="printed as on Linux, which tells the owner's pid")
def test_the_code_serves_clients_a_second_copy_prints_what_stands_there_and_the_next_serves_after_sigkill(
    directory, path
):
    assert "/tmp/greet.sock" in CODE
    program = directory / "readme.py"
    program.write_text(CODE.replace("/tmp/greet.sock", path))
    run = {"cwd": directory, "env": ELSEWHERE}
    argv = [sys.executable, "-u", str(program)]  # -u: its line comes at once through a pipe, too
    with Program(argv, **run) as first:
        assert first.line() == f"listening on {path}"
        second = subprocess.run(argv, **run, capture_output=True, timeout=PATIENCE, check=False, text=True)
        refusal = REFUSAL.replace("/tmp/greet.sock", path).replace("pid 7101", f"pid {first.pid}")
        assert (second.returncode, second.stderr) == (1, refusal)
        assert [received(path), received(path)] == [b"hello\n"] * 2
        first.end(signal.SIGKILL)
    assert os.path.exists(path)
    with Program(argv, **run) as third:
        assert third.line() == f"listening on {path}"
        assert received(path) == b"hello\n"
        third.end(signal.SIGINT)
    assert not os.path.exists(path)
