"""docs/index.md, followed from top to bottom in one shell: what is typed there prints what stands there."""

import os
import re
import signal
import socket
import subprocess
import sys

import pytest

import unixsock
from children import PATIENCE
from programs import AS_TYPED, ROOT, Program

INDEX = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
STEPS = re.findall(r"^```sh\n(.*?)^```\n\n```text\n(.*?)^```$", INDEX, re.MULTILINE | re.DOTALL)
[CODE] = re.findall(r"^```python\n(.*?)^```$", INDEX, re.MULTILINE | re.DOTALL)


def pattern(line, pids):
    """Matches what `line` is on another day, in another directory; `pids` are those that have been seen."""
    text = re.sub(r"pid (\d+)", lambda found: f"pid {pids.get(found[1], 0)}", line)
    text = re.escape(text).replace(r"pid\ 0", r"pid\ (\d+)")
    text = re.sub(r"/tmp/tmp\\\.\w+", "/.*", text)
    text = re.sub(r"\\\[Errno\\ \d+\\\]", r"\\[Errno \\d+\\]", text)
    return re.sub(r"\\\[\d.*?\\\]", r"\\[.*\\]", text)


@pytest.mark.skipif(not os.path.exists("/proc/locks"), reason="printed as on Linux, which reports the owner's pid")
def test_each_step_prints_what_stands_there(directory):
    assert len(STEPS) == INDEX.count("```sh\n") == INDEX.count("```text\n")
    environment = {**AS_TYPED, "TMPDIR": str(directory)}
    pids = {}
    with Program(["sh", "-c", "exec sh 2>&1"], cwd=ROOT, env=environment, stdin=subprocess.PIPE) as shell:
        for typed, printed in STEPS:
            shell.type(typed)
            for line in printed.splitlines():
                said = shell.line()
                while "Killed" in said:  # some shells say so
                    said = shell.line()
                match = re.fullmatch(pattern(line, pids), said)
                assert match, f"{said!r} for {line!r}"
                if match.groups():
                    pids[re.search(r"pid (\d+)", line)[1]] = match[1]
        assert shell.wait() == (0, "")


def test_the_code_serves_and_sigterm_leaves_only_the_lock_file(directory, path):
    program = directory / "server.py"
    program.write_text(CODE.replace("    serve(sock)\n", "    print(guard.address, flush=True)\n    serve(sock)\n"))
    package = os.path.dirname(os.path.dirname(unixsock.__file__))  # PYTHONPATH may be relative, and we go elsewhere
    environment = {**os.environ, "PYTHONPATH": package}
    with Program([sys.executable, str(program)], cwd=directory, env=environment) as server:
        address = server.line()
        assert address == str(directory / "app.sock")
        for _ in range(2):
            with socket.socket(socket.AF_UNIX) as client:
                client.settimeout(PATIENCE)
                client.connect(address)
                assert client.recv(100) == b"hello\n"
        assert server.end(signal.SIGTERM) == (0, "")
    assert sorted(os.listdir(directory)) == ["app.sock.lock", "server.py"]
