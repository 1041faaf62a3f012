"""docs/index.md, followed from top to bottom in one shell: what is typed there prints what stands there."""

import os
import re
import signal
import subprocess
import sys

import pytest

from markdown import blocks, read
from programs import AS_TYPED, ELSEWHERE, ROOT, Program, received

INDEX = read("docs/index.md")
TYPED, PRINTED = blocks(INDEX, "sh"), blocks(INDEX, "text")
[CODE] = blocks(INDEX, "python")


def pattern(line, pids):
    """Matches what `line` is on another day, in another directory; `pids` are those that have been seen."""
    text = re.sub(r"pid (\d+)", lambda found: f"pid {pids.get(found[1], 0)}", line)
    text = re.escape(text).replace(r"pid\ 0", r"pid\ (\d+)")
    text = re.sub(r"/tmp/tmp\\\.\w+", "/.*", text)
    text = re.sub(r"\\\[Errno\\ \d+\\\]", r"\\[Errno \\d+\\]", text)
    return re.sub(r"\\\[\d.*?\\\]", r"\\[.*\\]", text)


@pytest.mark.skipif(not os.path.exists("/proc/locks"), reason="printed as on Linux, which reports the owner's pid")
def test_each_step_prints_what_stands_there(directory):
    assert len(TYPED) == len(PRINTED)
    environment = {**AS_TYPED, "TMPDIR": str(directory)}
    pids = {}
    with Program(["sh", "-c", "exec sh 2>&1"], cwd=ROOT, env=environment, stdin=subprocess.PIPE) as shell:
        for typed, printed in zip(TYPED, PRINTED):
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
    with Program([sys.executable, str(program)], cwd=directory, env=ELSEWHERE) as server:
        address = server.line()
        assert address == str(directory / "app.sock")
        assert [received(address), received(address)] == [b"hello\n"] * 2
        assert server.end(signal.SIGTERM) == (0, "")
    assert sorted(os.listdir(directory)) == ["app.sock.lock", "server.py"]
