"""The examples of workers, of one instance and of a standby do what they say, and so do the blocks of recipes.md."""

import asyncio
import contextlib
import os
import re
import select
import shutil
import signal
import socket
import ssl
import stat
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import pytest

import unixsock
from children import PATIENCE, Child
from markdown import block, blocks, read
from observed import BOUND, as_root, expect_refusal, on_linux, start_and_close
from programs import EXAMPLES, Program, end, refused, served_by, slow_request, taken_by, until_refused

PAGE = read("docs/recipes.md")
ONE = "one_instance.py"


def started(name, *arguments):
    return Program([sys.executable, str(EXAMPLES / name), *arguments])


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
def test_workers_serve_on_without_their_parent_and_keep_the_path_until_the_last_has_ended(path, program):
    with workers(path, *program) as (parent, pids):
        assert all(served_by(path) in pids for _ in range(20))
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
        killed = pids.pop()
        os.kill(killed, signal.SIGKILL)
        assert parent.line() == f"worker {killed} has died"
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
    status, errors = refused("standby.py", path)
    assert status == 1
    assert "not a socket" in errors


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


def run(code, **names):
    exec(code, names)
    return names


def test_tls_is_served_and_the_path_is_free_when_the_wrapper_is_closed_before_the_guard(path, certificate):
    ours, theirs = (ssl.SSLContext(kind) for kind in (ssl.PROTOCOL_TLS_SERVER, ssl.PROTOCOL_TLS_CLIENT))
    ours.load_cert_chain(*certificate)
    theirs.load_verify_locations(certificate[0])

    def ask():
        with (
            socket.socket(socket.AF_UNIX) as plain,
            theirs.wrap_socket(plain, server_hostname="localhost", do_handshake_on_connect=False) as client,
        ):
            client.connect(path)
            got.append(client.recv(100))

    def serve(listener):
        with socket.socket(socket.AF_UNIX) as silent:
            silent.connect(path)  # it sends nothing, and keeps no other client waiting
            (asks := threading.Thread(target=ask)).start()
            with listener.accept()[0], listener.accept()[0] as client:
                client.sendall(b"hello")
                asks.join()
        expect_refusal(path)

    got = []
    sock, guard = unixsock.bind_exclusive(path)
    run(block(PAGE, "wrap_socket"), context=ours, sock=sock, guard=guard, serve=serve)
    assert got == [b"hello"]
    assert not os.path.exists(path)


def test_a_tls_wrapper_that_outlives_the_guard_keeps_the_path(path):
    sock, guard = unixsock.bind_exclusive(path)
    with ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).wrap_socket(sock, server_side=True):
        guard.close()
        assert os.path.exists(path)
        expect_refusal(path, BOUND)
    start_and_close(path)


PEER = block(PAGE, "def uid_of_peer")


@contextlib.contextmanager
def connected(child, directory, path):
    """Our end of a connection; the other one is the `client` of `child`. Both have uid_of_peer()."""
    directory.chmod(0o755)
    sock, guard = unixsock.bind_exclusive(path, mode=0o666)
    with guard:
        child.do("client = socket.socket(socket.AF_UNIX); client.connect(path)", path=path)
        with sock.accept()[0] as connection:
            yield connection, run(PEER)["uid_of_peer"]


@pytest.mark.skipif(os.geteuid() == 65534, reason="nobody is told apart from no other user without a number")
@pytest.mark.parametrize("uid", [os.geteuid(), pytest.param(64000, marks=as_root)])
def test_each_end_of_a_connection_is_told_the_others_user(directory, path, uid):
    with Child() as other:
        other.do(PEER)
        other.do("if uid != os.geteuid(): os.setgroups([]); os.setgid(uid); os.setuid(uid)", uid=uid)
        with connected(other, directory, path) as (connection, uid_of_peer):
            assert uid_of_peer(connection) == uid
            assert other.value("uid_of_peer(client)") == os.geteuid()


@on_linux
def test_in_a_user_namespace_a_user_without_a_number_is_unknown_although_it_shows_as_our_own(directory, path):
    with Child() as inside:
        inside.do(PEER)
        if inside.value("ctypes.CDLL(None).unshare(0x10000000)") != 0:
            pytest.skip("may not make a user namespace here")
        with connected(inside, directory, path):
            of_peer = "client.getsockopt(socket.SOL_SOCKET, SO_PEERCRED, 12)"
            assert inside.value(f"struct.unpack('iII', {of_peer})[1] == os.geteuid() == 65534")
            assert inside.value("uid_of_peer(client)") is None


@on_linux
def test_a_peer_with_our_own_pid_is_unknown_since_gvisor_answers_so_for_every_peer():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        assert run(PEER)["uid_of_peer"](ours) is None


def test_a_block_of_the_page_that_no_test_asks_for_runs_as_it_stands(directory, monkeypatch):
    asked = []
    for file in Path(__file__).parents[1].glob("*/test_*.py"):
        asked += re.findall(r'block\(\w+(?:\("docs/recipes.md"\))?, "(.+?)"\)', file.read_text())
    monkeypatch.chdir(directory)
    for code in [code for code in blocks(PAGE, "python") if not any(part in code for part in asked)]:
        run(code)


def test_a_loop_that_forks_and_accepts_serves_on_without_its_first_process(path):
    code = f"path = {path!r}\n" + block(PAGE, "in range(3)")
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
        parent.do(block(PAGE, "register_at_fork"))
        with parent.fork() as child:
            assert child.value("guard.closed")
            assert not parent.value("guard.closed")
            parent.do("guard.close()")
            unixsock.bind_exclusive(path)[1].close()


def test_a_closed_asyncio_server_leaves_the_socket_file_to_the_other_workers(path):
    sock, guard = unixsock.bind_exclusive(path)
    serve = "async def serve():\n" + textwrap.indent(block(PAGE, "cleanup_socket") + "server.close()", "    ")
    with guard:
        asyncio.run(run(serve, asyncio=asyncio, sys=sys, sock=sock, handler=None)["serve"]())
        assert os.path.exists(path)


def test_a_frameworks_listener_is_alone_and_gives_the_path_up_at_close(path):
    listener = run(block(PAGE, "class UnixListener"))["UnixListener"](path)
    with pytest.raises(unixsock.AddressInUseError):
        unixsock.bind_exclusive(path)
    listener.close()
    assert not os.path.exists(path)


def test_a_wait_in_asyncio_ends_with_the_refusal_and_with_the_owner_and_can_be_cancelled(path):
    names = run(block(PAGE, "bind_when_free"))
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
        still_ours = run(block(PAGE, "still_ours"), guard=guard)["still_ours"]
        assert still_ours()
        os.unlink(path)
        assert not still_ours()
        with socket.socket(socket.AF_UNIX) as other:
            other.bind(path)
            assert not still_ours()


WAITS = ["sock.accept()", "select.select([sock], [], [])", "(poll := select.poll()).register(sock) or poll.poll()"]


@pytest.mark.parametrize("wait", WAITS)
def test_a_fixture_wakes_the_thread_of_its_server(wait, monkeypatch):
    def serve(sock):
        with contextlib.suppress(OSError):
            eval(wait, {"sock": sock, "select": select})
            sock.accept()

    with monkeypatch.context() as patched:
        patched.setattr(pytest, "fixture", contextlib.contextmanager)
        server = run(block(PAGE, "pytest.fixture"), serve=serve)
    with server["server"]() as address:
        assert os.path.exists(address)
    assert not os.path.exists(address)


def test_a_cell_can_run_twice(directory, monkeypatch):
    monkeypatch.chdir(directory)
    names = run(block(PAGE, "globals()"), unixsock=unixsock)
    run(block(PAGE, "globals()"), **names)["guard"].close()
