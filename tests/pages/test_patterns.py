"""The examples of workers, one instance, a standby, TLS and peers do what they say; the blocks of recipes.md, too."""

import asyncio
import contextlib
import http.client
import os
import re
import secrets
import select
import shutil
import signal
import socket
import ssl
import stat
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
import types
from pathlib import Path

import pytest

import unixsock
from children import PATIENCE, Child, ChildError
from observed import as_root, on_linux
from programs import EXAMPLES, Connection, Program, end, refused, served_by, slow_request, until_refused

not_as_nobody = pytest.mark.skipif(os.geteuid() == 65534, reason="a server that runs as nobody serves nobody")
ONE = "one_instance.py"


def started(name, *arguments):
    return Program([sys.executable, str(EXAMPLES / name), *arguments])


def refusal(name, path, *arguments):
    """What a program that cannot have `path` says, in one line."""
    status, errors = refused(name, path, *arguments)
    assert status == (os.EX_TEMPFAIL if "in use" in errors else 1)
    assert re.fullmatch(rf"{re.escape(name)}: .*{re.escape(path)}.*\n", errors)
    return errors


def taken_by(pid):
    return f"taken by pid {pid}" if os.path.exists("/proc/locks") else "in use"


@pytest.mark.parametrize("name", ["one_instance", "peer", "prefork", "spawn", "standby", "tls", "upgrade"])
def test_without_an_address_it_says_how_it_is_called(name):
    status, errors = refused(f"{name}.py")
    assert status != 0
    assert f"{name}.py " in errors
    assert "Traceback" not in errors


@contextlib.contextmanager
def workers(path, name, *method):
    """prefork.py, or spawn.py, and the pids of its workers."""
    with started(name, path, *method) as parent:
        assert parent.line() == f"pid {parent.pid} listens at {path}"
        yield parent, {worker(parent) for _ in range(4)}


def worker(parent):
    """The worker that the next line of its parent tells of."""
    return int(re.fullmatch(r"worker (\d+)", parent.line())[1])


of_workers = pytest.mark.parametrize(
    "program", [("prefork.py",), ("spawn.py", "spawn"), ("spawn.py", "forkserver")], ids=" ".join
)


@of_workers
def test_workers_answer_a_second_parent_is_refused_and_workers_serve_on_without_theirs(path, program):
    with workers(path, *program) as (parent, pids):
        assert all(served_by(path) in pids for _ in range(20))
        assert taken_by(parent.pid) in refusal(program[0], path)
        end(parent.pid, signal.SIGKILL)
        while pids:
            assert served_by(path) in pids
            with pytest.raises(unixsock.AddressInUseError):
                unixsock.bind_exclusive(path)
            if program == ("prefork.py",) and shutil.which("fuser"):
                found = subprocess.run(["fuser", f"{path}.lock"], capture_output=True, timeout=PATIENCE, check=True)
                assert {int(pid) for pid in found.stdout.split()} == pids
            end(pids.pop(), signal.SIGTERM)
        assert os.path.exists(path) == (program != ("prefork.py",))  # a forked worker's guard has removed it
        unixsock.bind_exclusive(path)[1].close()
        assert parent.wait() == (-signal.SIGKILL, "")


@of_workers
@pytest.mark.parametrize(
    ("send", "number"),
    [(os.kill, signal.SIGTERM), (os.killpg, signal.SIGINT)],
    ids=["from the service manager", "from the terminal"],
)
def test_the_parent_ends_with_its_workers_which_finish_their_requests_without_new_clients(path, program, send, number):
    with workers(path, *program) as (parent, pids), slow_request(path) as finish:
        send(parent.pid, number)
        until_refused(path)
        assert finish() in pids
        assert parent.wait() == (0, "")
        for pid in pids:
            with pytest.raises(ProcessLookupError):
                os.kill(pid, 0)
    assert not os.path.exists(path)


def test_a_worker_that_dies_is_replaced(path):
    with workers(path, "prefork.py") as (parent, pids):
        dead = pids.pop()
        os.kill(dead, signal.SIGKILL)
        assert parent.line() == f"worker {dead} has died"
        new = worker(parent)
        for pid in (parent.pid, *pids):
            end(pid, signal.SIGKILL)
        assert served_by(path) == new


def test_of_eight_started_at_once_one_serves_and_seven_are_answered_once_each(path):
    with contextlib.ExitStack() as stack:
        calls = {f"word{i}": stack.enter_context(started(ONE, path, f"word{i}")) for i in range(8)}
        said = {word: call.line() for word, call in calls.items()}
        [first] = [word for word in calls if said[word] == f"done: {word}"]
        server = calls.pop(first)
        assert server.line() == f"pid {server.pid} has done: {first}"
        for word, call in calls.items():
            assert said[word] == f"pid {server.pid} has done: {word}"
            assert call.wait() == (0, "")
        assert {server.line() for _ in calls} == {f"done: {word}" for word in calls}
        assert started(ONE, path, "last").wait() == (0, "")
        assert server.line() == "done: last"
        assert server.end(signal.SIGTERM) == (0, "")
    assert not os.path.exists(path)


# Hangs when it has done what the second call asks for, and has not answered.
HANGS = """
import builtins, runpy, sys, threading

def print(*words, **options):
    said(*words, **options)
    if words == ("done:", "second"):
        threading.Event().wait()

said, builtins.print = builtins.print, print
del sys.argv[0]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def test_a_call_whose_server_is_killed_ends_with_an_error_and_the_next_one_serves(path):
    with Program([sys.executable, "-c", HANGS, str(EXAMPLES / ONE), path, "first"]) as server:
        assert server.line() == "done: first"
        server.line()
        with started(ONE, path, "second") as second:
            assert server.line() == "done: second"
            server.end(signal.SIGKILL)
            status, errors = second.wait()
            assert status == 1
            assert re.fullmatch(r"one_instance\.py: .*\n", errors)
    with started(ONE, path, "third") as third:
        assert third.line() == "done: third"


@contextlib.contextmanager
def standby(path):
    """standby.py that serves, and one that stands by."""
    with started("standby.py", path) as first:
        assert first.line() == f"pid {first.pid} listens at {path}"
        with started("standby.py", path) as second:
            says = second.line()
            assert says.startswith(f"pid {second.pid} stands by: ")
            assert taken_by(first.pid) in says
            yield first, second


@pytest.mark.parametrize(("number", "status"), [(signal.SIGKILL, -signal.SIGKILL), (signal.SIGTERM, 0)])
def test_a_standby_takes_over_when_the_first_is_gone_and_ends_cleanly_while_it_waits(path, number, status):
    with standby(path) as (first, second):
        with started("standby.py", path) as third:
            third.line()
            assert third.end(signal.SIGINT if status else signal.SIGTERM) == (0, "")
        assert served_by(path) == first.pid
        assert first.end(number) == (status, "")
        assert second.line() == f"pid {second.pid} listens at {path}"
        assert served_by(path) == second.pid
        assert second.end(signal.SIGTERM) == (0, "")
    assert not os.path.exists(path)


def test_a_standby_does_not_wait_for_what_is_not_a_socket(path):
    Path(path).write_text("precious")
    assert "not a socket" in refusal("standby.py", path)


@pytest.fixture
def certificate(directory):
    """A certificate for localhost and its key."""
    if shutil.which("openssl") is None:
        pytest.skip("no openssl to make a certificate with")
    files = [str(directory / name) for name in ("certificate.pem", "key.pem")]
    command = (
        "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost -addext subjectAltName=DNS:localhost"
    )
    subprocess.run(
        [*command.split(), "-out", files[0], "-keyout", files[1]], capture_output=True, timeout=PATIENCE, check=True
    )
    return files


@contextlib.contextmanager
def tls(path, certificate):
    """tls.py, listening at `path`."""
    with started("tls.py", path, *certificate) as server:
        assert server.line() == f"pid {server.pid} listens at {path}"
        yield server


class TLSConnection(Connection):
    """http.client over TLS over a Unix-domain socket; trusts `certificate` alone."""

    def __init__(self, path, certificate):
        super().__init__(path)
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self._context.load_verify_locations(certificate)

    def connect(self):
        super().connect()
        self.sock = self._context.wrap_socket(self.sock, server_hostname="localhost")


def served_over_tls_by(path, certificate):
    with contextlib.closing(TLSConnection(path, certificate[0])) as connection:
        connection.request("GET", "/")
        response = connection.getresponse()
        assert response.length
        return int(re.fullmatch(rb"Hello from pid (\d+)\n", response.read())[1])


def test_with_a_tls_wrapper_around_the_listener_the_lock_stays_until_the_wrapper_is_closed(path, certificate):
    with tls(path, certificate) as server:
        assert served_over_tls_by(path, certificate) == server.pid
        assert taken_by(server.pid) in refusal("tls.py", path, *certificate)
        server.end(signal.SIGKILL)
    with tls(path, certificate) as server, socket.socket(socket.AF_UNIX) as silent:
        silent.connect(path)  # does not shake hands, and keeps no other client waiting
        with contextlib.closing(Connection(path)) as connection, pytest.raises((OSError, http.client.HTTPException)):
            connection.request("GET", "/")  # speaks no TLS, and is cut off without a traceback
            connection.getresponse()
        assert served_over_tls_by(path, certificate) == server.pid
        assert server.end(signal.SIGTERM) == (0, "")
    assert not os.path.exists(path)


def test_the_end_of_an_answer_over_tls_is_no_cut(path, certificate):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(certificate[0])
    with tls(path, certificate), socket.socket(socket.AF_UNIX) as plain:
        plain.settimeout(PATIENCE)
        plain.connect(path)
        with context.wrap_socket(plain, server_hostname="localhost", suppress_ragged_eofs=False) as client:
            client.sendall(b"GET / HTTP/1.0\r\n\r\n")
            while client.recv(4096):  # SSLEOFError where close_notify is missing
                pass
            client.unwrap()


def test_a_certificate_that_cannot_be_had_is_told_before_anything_is_bound(path, directory):
    status, errors = refused("tls.py", path, *2 * [str(directory / "missing.pem")])
    assert status == 1
    assert re.fullmatch(r"tls\.py: \[Errno 2\] .*\n", errors)
    assert os.listdir(directory) == []


@pytest.fixture
def address(path):
    """What peer.py is told: an abstract name that nobody else uses, or a path where there are none."""
    return f"unixsock-test-{secrets.token_hex(8)}" if sys.platform == "linux" else path


@contextlib.contextmanager
def peer(address, *wrapper):
    """peer.py, listening at `address`, started by way of the program `wrapper`."""
    with Program([*wrapper, sys.executable, str(EXAMPLES / "peer.py"), address]) as server:
        assert server.line() == f"pid {server.pid} listens at {address}"
        yield server


def ask(address):
    """Exit status, output and errors of the client in peer.py."""
    run = subprocess.run(
        [sys.executable, str(EXAMPLES / "peer.py"), address, "ask"], capture_output=True, timeout=PATIENCE, check=False
    )
    return run.returncode, run.stdout.decode(), run.stderr.decode()


@not_as_nobody
def test_our_own_user_is_served(address):
    with peer(address) as server:
        assert ask(address) == (0, f"Hello from pid {server.pid}\n", "")
        assert server.end(signal.SIGTERM) == (0, "")
    status, _, errors = ask(address)
    assert status == 1
    assert re.fullmatch(rf"peer\.py: {re.escape(address)}: .*\n", errors)


@on_linux
@as_root
def test_another_user_is_turned_away_without_an_answer(address, user):
    with peer(address) as server:
        user.do(
            "client = socket.socket(socket.AF_UNIX)\n"
            "client.settimeout(20)\n"
            "client.connect('\\0' + address)\n"
            "try: client.sendall(b'GET / HTTP/1.0\\r\\n\\r\\n'); got = client.recv(100).decode()\n"
            "except (BrokenPipeError, ConnectionResetError): got = ''",
            address=address,
        )
        assert user.value("got") == ""
        assert server.line() == "uid 65534 is turned away"
        assert ask(address) == (0, f"Hello from pid {server.pid}\n", "")


@on_linux
@not_as_nobody
def test_in_a_user_namespace_nobody_is_taken_for_our_own_user(address):
    if os.system("unshare --user true 2>/dev/null") != 0:
        pytest.skip("may not make a user namespace here")
    with peer(address, "unshare", "--user") as server:
        status, output, errors = ask(address)
        assert (status, output) == (1, "")
        assert re.fullmatch(rf"peer\.py: {re.escape(address)}: .*\n", errors)
        assert server.line() == "uid 65534 is turned away"


@on_linux
def test_a_peer_with_our_own_pid_is_unknown_and_refused(address):
    # gVisor answers so for every peer. On Linux, it is a server in the client's own process.
    asks = f"import runpy; runpy.run_path({str(EXAMPLES / 'peer.py')!r})['ask'](address)"
    with Child() as child:
        child.do("sock, guard = unixsock.bind_abstract(address)", address=address)
        with pytest.raises(ChildError, match="not our server's: it belongs to an unknown user") as refusal:
            child.do(asks)
        assert refusal.value.kind == "SystemExit"
        child.do("with sock.accept()[0] as client: got = client.recv(100).decode()")
        assert child.value("got") == ""


@on_linux
@as_root
def test_a_client_sends_nothing_to_a_server_of_another_user(address, user):
    user.do("sock, guard = unixsock.bind_abstract(address)", address=address)
    assert "abstract name" in refusal("peer.py", address)
    assert ask(address) == (1, "", f"peer.py: {address} is not our server's: it belongs to uid 65534\n")
    user.do("with sock.accept()[0] as client: got = client.recv(100).decode()")
    assert user.value("got") == ""


BLOCKS = re.findall(r"^```python\n(.*?)^```$", (EXAMPLES.parent / "recipes.md").read_text(), re.MULTILINE | re.DOTALL)


def block(words):
    """The code in recipes.md that has these words."""
    [code] = [code for code in BLOCKS if words in code]
    return code


def run(code, **names):
    exec(code, names)
    return names


def test_a_block_of_the_page_that_no_test_asks_for_runs_as_it_stands(directory, monkeypatch):
    asked = re.findall(r'block\("(.+?)"\)', Path(__file__).read_text())
    for file in Path(__file__).parents[1].glob("*/test_*.py"):
        asked += re.findall(r'of_page\("recipes\.md", f?"(.+?)"\)', file.read_text())
    monkeypatch.chdir(directory)
    for code in {*BLOCKS} - {*map(block, asked)}:
        run(code)


def test_a_loop_that_forks_and_accepts_serves_on_without_its_first_process(path):
    code = f"import os, unixsock; path = {path!r}\n" + block("in range(3)")
    with Program([sys.executable, "-c", code]) as parent:
        while True:
            with (
                contextlib.suppress(FileNotFoundError, ConnectionRefusedError),
                socket.socket(socket.AF_UNIX) as client,
            ):
                client.connect(path)
                if client.recv(100) != b"Hello from pid %d" % parent.pid:
                    break
        end(parent.pid)
        with pytest.raises(unixsock.AddressInUseError), socket.socket(socket.AF_UNIX) as client:
            client.connect(path)
            assert client.recv(100).startswith(b"Hello from pid ")
            unixsock.bind_exclusive(path)


def test_a_child_that_closes_the_guard_after_the_fork_is_not_in_the_way(path):
    with Child() as parent:
        parent.do("sock, guard = unixsock.bind_exclusive(path)", path=path)
        parent.do(block("register_at_fork"))
        with parent.fork() as child:
            assert child.value("guard.closed")
            assert not parent.value("guard.closed")
            parent.do("guard.close()")
            unixsock.bind_exclusive(path)[1].close()


def test_a_closed_asyncio_server_leaves_the_socket_file_to_the_other_workers(path):
    sock, guard = unixsock.bind_exclusive(path)
    serve = "async def serve():\n" + textwrap.indent(block("cleanup_socket") + "server.close()", "    ")
    with guard:
        asyncio.run(run(serve, asyncio=asyncio, sys=sys, sock=sock, handler=None)["serve"]())
        assert os.path.exists(path)


def test_a_frameworks_listener_is_alone_and_gives_the_path_up_at_close(path):
    listener = run(block("class UnixListener"), unixsock=unixsock)["UnixListener"](path)
    with pytest.raises(unixsock.AddressInUseError):
        unixsock.bind_exclusive(path)
    listener.close()
    assert not os.path.exists(path)


def test_a_wait_in_asyncio_ends_with_the_refusal_and_with_the_owner_and_can_be_cancelled(path):
    names = run(block("bind_when_free"), asyncio=asyncio, time=time, unixsock=unixsock)
    bind_when_free = names["bind_when_free"]

    async def wait():
        guard = unixsock.bind_exclusive(path)[1]
        with pytest.raises(unixsock.AddressInUseError, match=re.escape(path)):
            await bind_when_free(path, timeout=0.05)
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(bind_when_free(path), 0.05)
        asyncio.get_running_loop().call_later(0.05, guard.close)
        with (await bind_when_free(path, mode=0o600, timeout=PATIENCE))[1]:
            assert stat.S_IMODE(os.stat(path).st_mode) == 0o600

    asyncio.run(wait())


def test_a_server_can_ask_whether_the_socket_file_is_still_its_own(path):
    with unixsock.bind_exclusive(path)[1] as guard:
        still_ours = run(block("still_ours"), os=os, guard=guard)["still_ours"]
        assert still_ours()
        os.unlink(path)
        assert not still_ours()
        with socket.socket(socket.AF_UNIX) as stranger:
            stranger.bind(path)
            assert not still_ours()


WAITS = ["sock.accept()", "select.select([sock], [], [])", "(poll := select.poll()).register(sock) or poll.poll()"]


@pytest.mark.parametrize("wait", WAITS)
def test_a_fixture_wakes_the_thread_of_its_server(wait):
    def serve(sock):
        with contextlib.suppress(OSError):
            eval(wait, {"sock": sock, "select": select})
            sock.accept()

    parts = {"tempfile": tempfile, "threading": threading, "socket": socket, "unixsock": unixsock, "serve": serve}
    server = run(block("pytest.fixture"), pytest=types.SimpleNamespace(fixture=contextlib.contextmanager), **parts)
    with server["server"]() as address:
        assert os.path.exists(address)
    assert not os.path.exists(address)


def test_a_cell_can_run_twice(directory, monkeypatch):
    monkeypatch.chdir(directory)
    names = run(block("globals()"), unixsock=unixsock)
    run(block("globals()"), **names)["guard"].close()
