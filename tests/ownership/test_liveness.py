"""Is anyone there? Each answer of the kernel about a server without the lock, which notices nothing of it."""

import contextlib
import errno
import itertools
import os
import select
import socket

import pytest

import unixsock
from observed import BOUND, TYPES, each_type, expect_refusal, leave_stale, raised_by, reaches, snapshot, start_and_close
from system_calls import before, instead

STREAM, DGRAM = socket.SOCK_STREAM, socket.SOCK_DGRAM


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


def name_of(value):
    return getattr(value, "name", None) or value.__name__


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


@each_type
@pytest.mark.parametrize(("state", "of_server"), STATES, ids=name_of)
def test_a_bound_server_keeps_its_path_and_nothing_reaches_it(path, state, of_server, kind):
    with state(path, of_server) as (server, clients):
        unchanged = snapshot(path)
        expect_refusal(path, BOUND, type=kind)
        assert snapshot(path) == unchanged
        assert arrived(server) == clients


@pytest.mark.skipif(not hasattr(select, "epoll"), reason="no epoll(7)")
@pytest.mark.parametrize(("state", "kind"), STATES)
def test_a_probe_raises_no_event_at_the_server(path, state, kind):
    with state(path, kind) as (server, _), select.epoll() as events:
        events.register(server, select.EPOLLIN | select.EPOLLOUT | select.EPOLLET)
        events.poll(0)  # what there was before
        for _ in range(20):
            expect_refusal(path, BOUND)
        assert events.poll(0) == []


def test_a_listener_in_flight_over_scm_rights_is_live(path):
    ours, theirs = socket.socketpair()
    with ours, theirs:
        with listening(path, STREAM) as (server, _):
            socket.send_fds(ours, [b"."], [server.fileno()])
        expect_refusal(path, BOUND)
        [descriptor] = socket.recv_fds(theirs, 1, 1)[1]
        with socket.socket(fileno=descriptor) as received:
            assert reaches(path, received)
    start_and_close(path)


def test_a_socket_file_whose_listener_in_flight_nobody_received_is_stale(path):
    ours, theirs = socket.socketpair()
    with ours, theirs, listening(path, STREAM) as (server, _):
        socket.send_fds(ours, [b"."], [server.fileno()])
    start_and_close(path)


def test_connections_that_outlive_their_listener_are_not_live(path):
    with socket.socket(socket.AF_UNIX) as client:
        with listening(path, STREAM) as (server, _):
            client.connect(path)
            served, _ = server.accept()
        with served, unixsock.bind_exclusive(path)[1]:
            served.sendall(b"still here")
            assert client.recv(16) == b"still here"


@pytest.mark.parametrize("alive", [True, False])
def test_what_may_not_be_probed_is_taken_neither_for_live_nor_for_stale(path, directory, user, alive):
    directory.chmod(0o777)
    with bound(path, STREAM) as (server, _):
        os.chmod(path, 0o555)
        if not alive:
            server.close()
        unchanged = snapshot(path)
        assert raised_by(user, path) == ("PermissionError", errno.EACCES, path)
        assert snapshot(path) == unchanged


@pytest.mark.parametrize(
    ("call", "nth"), [("os.rename", 1), ("socket.connect_ex", 1), ("socket.connect_ex", 2), ("os.unlink", 1)]
)
def test_a_socket_file_that_goes_meanwhile_is_not_in_the_way(path, call, nth):
    def vanish(_):
        numbers.append(call)
        if len(numbers) == nth:
            os.unlink(path)

    leave_stale(path)
    numbers = []
    with before(call, vanish, times=nth):
        sock, guard = unixsock.bind_exclusive(path)
    with guard:
        assert len(numbers) == nth
        assert reaches(path, sock)


@pytest.mark.parametrize("clients", [0, 1])  # 1 fills the backlog
def test_a_server_that_comes_before_the_second_probe_keeps_its_path(path, clients):
    with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as client:

        def come(call):
            if call.args[0].type == STREAM:
                os.unlink(path)
                server.bind(path)
                server.listen(0)
                if clients:
                    client.connect(path)

        leave_stale(path)
        with before("socket.connect_ex", come, times=2):
            expect_refusal(path, BOUND)
        assert os.path.exists(path)


def test_a_server_that_comes_after_a_probe_has_found_no_socket_file_keeps_its_path(path):
    with socket.socket(socket.AF_UNIX) as server:

        def gone_and_come(call):
            if server.getsockname():
                return call.run()
            os.unlink(path)
            answer = call.run()
            server.bind(path)
            server.listen()
            return answer

        leave_stale(path)
        with instead("socket.connect_ex", gone_and_come):
            expect_refusal(path, BOUND)
        assert reaches(path, server)


class Replaced(socket.socket):
    """What an application may have put in the place of socket.socket: its connect goes another way."""

    def connect_ex(self, _):
        pytest.fail("connected by way of a proxy")

    connect = connect_ex


def test_whatever_stands_for_socket_socket_the_probes_are_the_interpreters_own(path, monkeypatch):
    leave_stale(path)
    with listening(path + ".live", STREAM):
        monkeypatch.setattr(socket, "socket", Replaced)
        sock, guard = unixsock.bind_exclusive(path)
        with guard:
            assert type(sock) is Replaced
        assert not os.path.exists(path)
        expect_refusal(path + ".live", BOUND)


@pytest.mark.parametrize("default", [None, 0.0, 20.0])
def test_a_probe_never_waits_whatever_the_default_timeout_of_sockets(path, default):
    waits = set()
    leave_stale(path)
    socket.setdefaulttimeout(default)
    try:
        with before("socket.connect_ex", lambda call: waits.add(call.args[0].gettimeout()), times=2):
            start_and_close(path)
    finally:
        socket.setdefaulttimeout(None)
    assert waits == {0}


# From here on the kernel is one that is not at hand: gVisor, or one with a security module. The socket file is a
# stale one, which a wrong verdict would remove.


def answers(datagram, stream):
    """Let connect(2) answer so, with an errno, to a datagram socket and to a stream socket."""
    return instead("socket.connect_ex", lambda call: datagram if call.args[0].type == DGRAM else stream)


@pytest.mark.parametrize("stream", [0, errno.EAGAIN, errno.EPROTOTYPE])
def test_a_live_stream_socket_that_refuses_the_datagram_probe_is_found_by_the_second(path, stream):
    leave_stale(path)
    with answers(errno.ECONNREFUSED, stream):
        expect_refusal(path, BOUND)
    assert os.path.exists(path)


@pytest.mark.parametrize(
    ("datagram", "stream"), [(errno.ECONNRESET, errno.ECONNREFUSED), (errno.ECONNREFUSED, errno.ECONNRESET)]
)
def test_a_server_that_closes_during_a_probe_as_on_the_bsds_is_in_use_and_waited_for(path, datagram, stream):
    leave_stale(path)
    with answers(datagram, stream):
        expect_refusal(path, BOUND)
        assert os.path.exists(path)
    closing = [True]

    def answer(call):
        if closing and call.args[0].type == (DGRAM if datagram == errno.ECONNRESET else STREAM):
            closing.clear()
            return errno.ECONNRESET
        return call.run()

    with instead("socket.connect_ex", answer):
        start_and_close(path, timeout=20)
    assert not closing


@pytest.mark.parametrize(
    ("datagram", "stream", "raised"),
    [
        *[
            (errno.EPERM, other, errno.EPERM)
            for other in (0, errno.EPERM, errno.EACCES, errno.EAGAIN, errno.ECONNREFUSED)
        ],
        *[(other, errno.ECONNREFUSED, other) for other in (errno.EACCES, errno.EAGAIN)],
        *[(errno.ECONNREFUSED, other, other) for other in (errno.EPERM, errno.EACCES, errno.EIO)],
        (errno.EIO, errno.EPROTOTYPE, errno.EIO),
    ],
)
def test_any_other_answer_is_raised_and_not_guessed(path, datagram, stream, raised):
    leave_stale(path)
    with answers(datagram, stream), pytest.raises(OSError, match=os.strerror(raised)) as caught:
        unixsock.bind_exclusive(path)
    assert (caught.value.errno, caught.value.filename) == (raised, path)
    assert os.path.exists(path)
