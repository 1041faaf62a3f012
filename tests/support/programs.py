"""Programs that a test runs as a user would, and a client of those that serve HTTP."""

import contextlib
import errno
import http.client
import os
import re
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import unixsock
from children import PATIENCE, exit_of

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "docs" / "examples"
# For what pages tell to type: python3 is the Python under test, where that goes by this name.
AS_TYPED = {**os.environ, "PATH": os.path.dirname(sys.executable) + os.pathsep + os.environ["PATH"]}
# For a program that runs in another directory: PYTHONPATH may be relative.
ELSEWHERE = {**os.environ, "PYTHONPATH": os.path.dirname(os.path.dirname(unixsock.__file__))}


class Program:
    """A running program, `argv` as for Popen; ended, with its process group, by the end of the with statement."""

    def __init__(self, argv, **popen):
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(argv, stdout=pipe, stderr=pipe, start_new_session=True, **popen)
        self.pid = self._process.pid
        self._output = b""

    def __enter__(self):
        return self

    def __exit__(self, *exc_info):
        if self._process.returncode is None:
            self.end(signal.SIGKILL)

    def line(self):
        """The next line of its standard output."""
        while b"\n" not in self._output:
            assert select.select([self._process.stdout], [], [], PATIENCE)[0], "nothing printed"
            chunk = os.read(self._process.stdout.fileno(), 4096)
            assert chunk, f"ended: {self._process.stderr.read().decode()}"
            self._output += chunk
        line, _, self._output = self._output.partition(b"\n")
        return os.fsdecode(line)

    def type(self, text):
        """Send `text` to its standard input, which has to be a pipe."""
        self._process.stdin.write(text.encode())
        self._process.stdin.flush()

    def end(self, number):
        """Send a signal to its process group, as a terminal does, and wait()."""
        os.killpg(self.pid, number)
        return self.wait()

    def wait(self):
        """Its exit status and its standard error."""
        errors = self._process.communicate(timeout=PATIENCE)[1]
        return self._process.returncode, errors.decode()


# Runs a program that does not wait for the path. Most examples are services: they wait for 5 s, and so would each test.
AT_ONCE = """
import runpy, sys, unixsock

def without_waiting(bind):
    return lambda address, **given: bind(address, **{**given, "timeout": 0})

unixsock.bind_exclusive = without_waiting(unixsock.bind_exclusive)
unixsock.bind_abstract = without_waiting(unixsock.bind_abstract)
del sys.argv[0]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def refused(example, *arguments):
    """Exit status and standard error of an example that cannot serve, and does not wait."""
    command = [sys.executable, "-c", AT_ONCE, str(EXAMPLES / example), *arguments]
    run = subprocess.run(command, capture_output=True, timeout=PATIENCE, check=False)
    assert run.stdout == b""
    return run.returncode, os.fsdecode(run.stderr)


def taken_by(pid):
    """What a refusal says of the owner, where the system reports its pid."""
    return f"taken by pid {pid}" if os.path.exists("/proc/locks") else "in use"


def assert_refused(owner, path, example, *arguments):
    """A second copy says in one line that `owner` has the path, and exits with the status for a try later."""
    status, errors = refused(example, path, *arguments)
    assert status == os.EX_TEMPFAIL
    assert re.fullmatch(rf"{re.escape(example)}: .*{taken_by(owner)}.*{re.escape(path)}.*\n", errors)


def assert_says_what_is_wrong(example, *arguments):
    """Without a path it shows how it is called; a path that cannot be had ends it with one line, and status 1."""
    status, errors = refused(example)
    assert status != 0
    assert f"{example} " in errors
    assert "PATH" in errors
    assert "Traceback" not in errors
    assert refused(example, "", *arguments) == (1, f"{example}: path is empty\n")
    status, errors = refused(example, "/no\nwhere/a.sock", *arguments)
    assert status == 1
    assert re.fullmatch(rf"{re.escape(example)}: .*{os.strerror(errno.ENOENT)}.*\n", errors)


class Connection(http.client.HTTPConnection):
    """http.client over a Unix-domain socket."""

    def __init__(self, path):
        super().__init__("localhost")
        self._path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(PATIENCE)
        self.sock.connect(self._path)


class WithoutPause:
    """Each of the functions again and again, in a thread of its own, until the end of the with statement."""

    def __init__(self, *functions):
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._repeat, args=[function]) for function in functions]

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *exc_info):
        self._over.set()
        for thread in self._threads:
            thread.join()

    def _repeat(self, function):
        while not self._over.is_set():
            function()


def answer(path):
    """What GET / is answered by the server at `path`."""
    with contextlib.closing(Connection(path)) as connection:
        connection.request("GET", "/")
        response = connection.getresponse()
        assert response.status == 200
        return response.read().decode()


def received(path):
    """What the server at `path` sends to a client that says nothing."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(PATIENCE)
        client.connect(path)
        return client.recv(100)


def until_refused(path):
    """Connect until the server at `path` is there for new clients no longer."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        with contextlib.closing(Connection(path)) as client:
            try:
                client.connect()
            except (ConnectionRefusedError, FileNotFoundError):
                return
            with contextlib.suppress(OSError, http.client.HTTPException):  # its end came with the listener's
                client.request("GET", "/")
                if select.select([client.sock], [], [], 1.0)[0]:
                    client.getresponse().read()
    raise AssertionError("clients can connect, and are not answered")


def served_by(path):
    """The pid in the answer of the server at `path`."""
    return int(re.fullmatch(r"Hello from pid (\d+)\n", answer(path))[1])


def end(pid, number=signal.SIGKILL):
    """Send a signal to a process that need not be our child, and wait for its end."""
    with contextlib.closing(exit_of(pid)) as ended:
        os.kill(pid, number)
        assert select.select([ended], [], [], PATIENCE)[0], f"pid {pid} has not ended"


@contextlib.contextmanager
def slow_request(path):
    """A client in the middle of its request, accepted by who serves now; calling it gives the pid that answers."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(PATIENCE)
        client.connect(path)
        client.sendall(b"GET / HTTP/1.0\r\n")
        served_by(path)  # came after it, and has been accepted

        def finish():
            client.sendall(b"\r\n")
            with client.makefile("rb") as response:
                return int(re.search(rb"Hello from pid (\d+)\n\Z", response.read())[1])

        yield finish
