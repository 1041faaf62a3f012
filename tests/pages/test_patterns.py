"""The examples of workers, a standby, a wrapper and a look at the peer do what they say, as programs of their own."""

import contextlib
import http.client
import os
import re
import secrets
import shutil
import signal
import socket
import ssl
import subprocess
import sys
from pathlib import Path

import pytest

import unixsock
from children import PATIENCE
from programs import EXAMPLES, Connection, Program, end, refused, served_by

on_linux = pytest.mark.skipif(sys.platform != "linux", reason="no abstract names here")
not_as_nobody = pytest.mark.skipif(os.geteuid() == 65534, reason="a server that runs as nobody serves nobody")
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be two users")


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
def prefork(path):
    """prefork.py, and the pids of its workers."""
    with started("prefork.py", path) as parent:
        assert parent.line() == f"pid {parent.pid} listens at {path}"
        yield parent, {worker(parent) for _ in range(4)}


def worker(parent):
    """The worker that the next line of its parent tells of."""
    return int(re.fullmatch(r"worker (\d+)", parent.line())[1])


def test_forked_workers_answer_and_a_second_parent_is_refused(path):
    with prefork(path) as (parent, workers):
        assert len(workers) == 4
        assert all(served_by(path) in workers for _ in range(20))
        assert taken_by(parent.pid) in refusal("prefork.py", path)


@pytest.mark.parametrize("send", [os.kill, os.killpg], ids=["from the service manager", "from the terminal"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_parent_ends_with_its_workers(path, send, number):
    with prefork(path) as (parent, workers):
        served_by(path)
        send(parent.pid, number)
        assert parent.wait() == (0, "")
        for pid in workers:
            with pytest.raises(ProcessLookupError):
                os.kill(pid, 0)
    assert not os.path.exists(path)


def test_a_worker_that_dies_is_replaced(path):
    with prefork(path) as (parent, workers):
        dead = workers.pop()
        os.kill(dead, signal.SIGKILL)
        assert parent.line() == f"worker {dead} has died"
        new = worker(parent)
        for pid in (parent.pid, *workers):
            end(pid, signal.SIGKILL)
        assert served_by(path) == new


def test_workers_serve_on_after_their_parent_was_killed_until_the_last_has_ended(path):
    with prefork(path) as (parent, workers):
        end(parent.pid, signal.SIGKILL)
        while workers:
            assert served_by(path) in workers
            assert "in use" in refusal("prefork.py", path)
            end(workers.pop(), signal.SIGTERM)
        assert not os.path.exists(path)  # the last one's guard has cleared it
        unixsock.bind_exclusive(path)[1].close()
        assert parent.wait() == (-signal.SIGKILL, "")


@pytest.mark.skipif(shutil.which("fuser") is None, reason="no fuser")
def test_fuser_finds_the_workers_of_a_dead_parent(path):
    with prefork(path) as (parent, workers):
        end(parent.pid, signal.SIGKILL)
        found = subprocess.run(["fuser", f"{path}.lock"], capture_output=True, timeout=PATIENCE, check=True)
        assert {int(pid) for pid in found.stdout.split()} == workers


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
def test_a_standby_takes_over_when_the_first_is_gone(path, number, status):
    with standby(path) as (first, second):
        assert served_by(path) == first.pid
        assert first.end(number) == (status, "")
        assert second.line() == f"pid {second.pid} listens at {path}"
        assert served_by(path) == second.pid
        assert second.end(signal.SIGTERM) == (0, "")
    assert not os.path.exists(path)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_standby_ends_cleanly_while_it_waits_and_the_first_serves_on(path, number):
    with standby(path) as (first, second):
        assert second.end(number) == (0, "")
        assert served_by(path) == first.pid


def test_a_standby_does_not_wait_for_what_is_not_a_socket(path):
    Path(path).write_text("precious")
    assert "not a socket" in refusal("standby.py", path)
    assert Path(path).read_text() == "precious"


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
        return int(re.fullmatch(rb"Hello from pid (\d+)\n", connection.getresponse().read())[1])


def test_with_a_tls_wrapper_around_the_listener_the_lock_stays(path, certificate):
    with tls(path, certificate) as server:
        assert served_over_tls_by(path, certificate) == server.pid
        assert taken_by(server.pid) in refusal("tls.py", path, *certificate)
        assert served_over_tls_by(path, certificate) == server.pid


def test_a_wrapper_closed_before_the_guard_frees_the_name(path, certificate):
    with tls(path, certificate) as server:
        served_over_tls_by(path, certificate)
        assert server.end(signal.SIGTERM) == (0, "")
    assert not os.path.exists(path)


def test_after_kill_9_a_server_with_a_wrapper_starts_again(path, certificate):
    with tls(path, certificate) as server:
        server.end(signal.SIGKILL)
    assert os.path.exists(path)
    with tls(path, certificate) as server:
        assert served_over_tls_by(path, certificate) == server.pid


def test_a_client_that_does_not_shake_hands_keeps_nobody_waiting(path, certificate):
    with tls(path, certificate) as server, socket.socket(socket.AF_UNIX) as silent:
        silent.connect(path)
        assert served_over_tls_by(path, certificate) == server.pid
        assert server.end(signal.SIGTERM) == (0, "")


def test_a_client_that_speaks_no_tls_is_cut_off_without_a_traceback(path, certificate):
    with tls(path, certificate) as server:
        with contextlib.closing(Connection(path)) as connection, pytest.raises((OSError, http.client.HTTPException)):
            connection.request("GET", "/")
            connection.getresponse()
        assert served_over_tls_by(path, certificate) == server.pid
        assert server.end(signal.SIGTERM) == (0, "")


def test_a_certificate_that_cannot_be_had_is_told_before_anything_is_bound(path, directory):
    missing = str(directory / "missing.pem")
    status, errors = refused("tls.py", path, missing, missing)
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
@as_root
def test_a_client_sends_nothing_to_a_server_of_another_user(address, user):
    user.do("sock, guard = unixsock.bind_abstract(address)", address=address)
    assert "abstract name" in refusal("peer.py", address)
    assert ask(address) == (1, "", f"peer.py: {address} is not our server's: it belongs to uid 65534\n")
    user.do("with sock.accept()[0] as client: got = client.recv(100).decode()")
    assert user.value("got") == ""
