"""Which children of a server hold its path: those of a server behind exec_server.py, if they inherit descriptors."""

import contextlib
import os
import signal
import sys

import pytest

import unixsock
from programs import EXAMPLES, Program, end

# A server that starts a child, which lives until its standard input ends, and waits.
SERVER = "import os, signal, subprocess; {start}; print('started', flush=True); signal.pause()"
STARTS = {
    "os.system": "os.system('exec 3<&0; cat <&3 >&2 &')",
    "close_fds=False": "subprocess.Popen(['cat'], stdout=2, close_fds=False)",
    "Popen": "subprocess.Popen(['cat'], stdout=2)",
}
BINDS = "import sys, unixsock; sock, guard = unixsock.bind_exclusive(sys.argv[1]); "


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("behind_exec", [True, False], ids=["behind exec_server.py", "with a bind of its own"])
def test_a_child_holds_the_path_of_a_server_whose_descriptors_are_inheritable(behind_exec, start, path):
    code = SERVER.format(start=STARTS[start])
    if behind_exec:
        command = [sys.executable, str(EXAMPLES / "exec_server.py"), path, sys.executable, "-c", code, "{fd}"]
    else:
        command = [sys.executable, "-c", BINDS + code, path]
    child_lives, lives = os.pipe()
    with contextlib.ExitStack() as stack:
        stack.callback(os.close, lives)
        server = stack.enter_context(Program(command, stdin=child_lives))
        os.close(child_lives)
        assert server.line() == "started"
        end(server.pid)
        if behind_exec and start != "Popen":
            with pytest.raises(unixsock.AddressInUseError):
                unixsock.bind_exclusive(path)
        else:
            unixsock.bind_exclusive(path)[1].close()
        server.end(signal.SIGKILL)
