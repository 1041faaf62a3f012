"""Is anyone there? Each answer of the kernel about a server without the lock, who notices nothing of the question."""

import contextlib
import errno
import itertools
import os
import select
import socket
import sys

import pytest

import unixsock

STREAM, SEQPACKET, DGRAM = socket.SOCK_STREAM, socket.SOCK_SEQPACKET, socket.SOCK_DGRAM
TYPES = [STREAM, DGRAM] if sys.platform == "darwin" else [STREAM, SEQPACKET, DGRAM]  # macOS has no SOCK_SEQPACKET


@contextlib.contextmanager
def bound(path, kind):
    """A server without the lock, bound and not yet listening, and how many clients it has: none."""
    with socket.socket(socket.AF_UNIX, kind) as server:
        server.bind(path)
        server.settimeout(0)
        yield server, 0


@contextlib.contextmanager
def listening(path, kind):
    with bound(path, kind) as (server, clients):
        server.listen()
        yield server, clients


@contextlib.contextmanager
def backlog_full(path, kind):
    with bound(path, kind) as (server, _), contextlib.ExitStack() as knocking:
        server.listen(0)
        for clients in itertools.count():
            client = knocking.enter_context(socket.socket(socket.AF_UNIX, kind))
            client.settimeout(0)
            if client.connect_ex(path) != 0:
                yield server, clients
                return


@contextlib.contextmanager
def connected_elsewhere(path, kind):
    with bound(path, kind) as (server, clients), bound(path + ".elsewhere", kind):
        server.connect(path + ".elsewhere")
        yield server, clients


STATES = [(bound, kind) for kind in TYPES]
STATES += [(state, kind) for state in (listening, backlog_full) for kind in TYPES if kind != DGRAM]
STATES += [(connected_elsewhere, DGRAM)]


def arrived(server):
    """How many clients, or messages, have reached the server."""
    count = 0
    if server.type != DGRAM:
        server.listen()
    with contextlib.suppress(BlockingIOError):
        while True:
            if server.type == DGRAM:
                server.recv(1)
            else:
                server.accept()[0].close()
            count += 1
    return count


def refused(path, **options):
    """A start is refused for a server that does not hold the lock."""
    with pytest.raises(unixsock.AddressInUseError, match="a socket is still bound") as caught:
        unixsock.bind_exclusive(path, **options)
    assert caught.value.owner_pid is None


def standing(path):
    """What could change about the name, but for the access time: a datagram socket's is set by the first look."""
    file = os.lstat(path)
    return file.st_ino, file.st_mode, file.st_nlink, file.st_uid, file.st_gid, file.st_mtime_ns, file.st_ctime_ns


def leave_stale(path):
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(path)


@pytest.mark.parametrize("type", TYPES)
@pytest.mark.parametrize(("state", "kind"), STATES)
def test_a_bound_server_keeps_its_name_and_nothing_reaches_it(path, state, kind, type):  # noqa: A002 - our argument
    with state(path, kind) as (server, clients):
        before = standing(path)
        refused(path, type=type)
        assert standing(path) == before
        assert arrived(server) == clients


@pytest.mark.skipif(not hasattr(select, "epoll"), reason="no epoll(7)")
@pytest.mark.parametrize(("state", "kind"), STATES)
def test_being_asked_raises_no_event_at_the_server(path, state, kind):
    with state(path, kind) as (server, _), select.epoll() as events:
        events.register(server, select.EPOLLIN | select.EPOLLOUT | select.EPOLLET)
        events.poll(0)  # what there was before
        for _ in range(20):
            refused(path)
        assert events.poll(0) == []


def test_a_listener_in_flight_over_scm_rights_is_live(path):
    ours, theirs = socket.socketpair()
    with ours, theirs:
        with listening(path, STREAM) as (server, _):
            socket.send_fds(ours, [b"."], [server.fileno()])
        refused(path)
        [descriptor] = socket.recv_fds(theirs, 1, 1)[1]
        with socket.socket(fileno=descriptor) as received, socket.socket(socket.AF_UNIX) as client:
            client.connect(path)
            received.accept()[0].close()
    unixsock.bind_exclusive(path)[1].close()


def test_a_listener_in_flight_that_nobody_received_is_dead(path):
    ours, theirs = socket.socketpair()
    with ours, theirs, listening(path, STREAM) as (server, _):
        socket.send_fds(ours, [b"."], [server.fileno()])
    unixsock.bind_exclusive(path)[1].close()


def test_connections_that_outlive_their_listener_are_not_live(path):
    with socket.socket(socket.AF_UNIX) as client:
        with listening(path, STREAM) as (server, _):
            client.connect(path)
            served, _ = server.accept()
        with served, unixsock.bind_exclusive(path)[1]:
            served.sendall(b"still here")
            assert client.recv(16) == b"still here"


@pytest.mark.parametrize("alive", [True, False])
def test_a_server_that_may_not_be_asked_is_taken_neither_for_live_nor_for_dead(path, directory, user, alive):
    directory.chmod(0o777)
    with bound(path, STREAM) as (server, _):
        os.chmod(path, 0o555)
        if not alive:
            server.close()
        raised = user.do(
            "try: unixsock.bind_exclusive(path)\nexcept OSError as error: _ = error.errno, error.filename", path=path
        )
        assert raised == [errno.EACCES, path]
        assert os.path.exists(path)


@pytest.mark.parametrize(
    ("module", "call", "nth"),
    [
        (os, "rename", 1),
        (unixsock._socket_file, "_connect_errno", 1),
        (unixsock._socket_file, "_connect_errno", 2),
        (os, "unlink", 1),
    ],
)
def test_a_name_that_goes_meanwhile_is_not_in_the_way(path, monkeypatch, module, call, nth):
    leave_stale(path)
    calls = []
    real, unlink = getattr(module, call), os.unlink

    def late(*arguments):
        calls.append(call)
        if len(calls) == nth:
            unlink(path)
        return real(*arguments)

    monkeypatch.setattr(module, call, late)
    with unixsock.bind_exclusive(path)[1], socket.socket(socket.AF_UNIX) as client:
        assert len(calls) == nth
        client.connect(path)


@pytest.mark.parametrize("clients", [0, 1])  # 1 fills the backlog
def test_a_server_that_comes_before_the_second_look_keeps_its_name(path, monkeypatch, clients):
    leave_stale(path)
    connect = unixsock._socket_file._connect_errno
    with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as client:

        def late(path, kind):
            if kind == STREAM:
                os.unlink(path)
                server.bind(path)
                server.listen(0)
                if clients:
                    client.connect(path)
            return connect(path, kind)

        monkeypatch.setattr(unixsock._socket_file, "_connect_errno", late)
        refused(path)
        assert os.path.exists(path)


def test_a_server_that_comes_after_a_look_has_found_no_name_keeps_its_own(path, monkeypatch):
    leave_stale(path)
    connect = unixsock._socket_file._connect_errno
    with socket.socket(socket.AF_UNIX) as server:

        def early(path, kind):
            if server.getsockname():
                return connect(path, kind)
            os.unlink(path)
            answer = connect(path, kind)
            server.bind(path)
            server.listen()
            return answer

        monkeypatch.setattr(unixsock._socket_file, "_connect_errno", early)
        refused(path)
        assert os.path.exists(path)


def test_a_look_never_waits(path, monkeypatch):
    leave_stale(path)
    waits = []

    class Probe(socket.socket):
        def connect_ex(self, address):
            waits.append((self.type, self.gettimeout()))
            return super().connect_ex(address)

    monkeypatch.setattr(socket, "socket", Probe)
    unixsock.bind_exclusive(path)[1].close()
    # connect(2) of a datagram socket has nothing to wait for.
    assert set(waits) == {(socket.SOCK_DGRAM, None), (socket.SOCK_STREAM, 0)}


# From here on the kernel is one that is not at hand: gVisor, or one with a security module. The name is a dead one,
# which a wrong verdict would remove.


def answers(monkeypatch, datagram, stream):
    """Let connect(2) answer so, with an errno, to a datagram socket and to a stream socket."""
    monkeypatch.setattr(unixsock._socket_file, "_connect_errno", lambda _, kind: datagram if kind == DGRAM else stream)


@pytest.mark.parametrize("stream", [0, errno.EAGAIN, errno.EPROTOTYPE])
def test_where_a_datagram_socket_is_refused_by_the_living_the_second_look_finds_them(path, monkeypatch, stream):
    leave_stale(path)
    answers(monkeypatch, errno.ECONNREFUSED, stream)
    refused(path)
    assert os.path.exists(path)


@pytest.mark.parametrize(
    ("datagram", "stream", "raised"),
    [
        (errno.EPERM, 0, errno.EPERM),
        (errno.EPERM, errno.EPERM, errno.EPERM),
        (errno.EPERM, errno.EACCES, errno.EPERM),
        (errno.EPERM, errno.EAGAIN, errno.EPERM),
        (errno.EPERM, errno.ECONNREFUSED, errno.EPERM),
        (errno.EACCES, errno.ECONNREFUSED, errno.EACCES),
        (errno.EIO, errno.ECONNREFUSED, errno.EIO),
        (errno.EAGAIN, errno.ECONNREFUSED, errno.EAGAIN),
        (errno.ECONNREFUSED, errno.EPERM, errno.EPERM),
        (errno.ECONNREFUSED, errno.EACCES, errno.EACCES),
        (errno.ECONNREFUSED, errno.EIO, errno.EIO),
    ],
)
def test_any_other_answer_is_raised_and_not_guessed(path, monkeypatch, datagram, stream, raised):
    leave_stale(path)
    answers(monkeypatch, datagram, stream)
    with pytest.raises(OSError, match=os.strerror(raised)) as caught:
        unixsock.bind_exclusive(path)
    assert (caught.value.errno, caught.value.filename) == (raised, path)
    assert os.path.exists(path)
