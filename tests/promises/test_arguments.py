"""A wrong argument is refused by its name, before anything is created; a good one reaches the kernel."""

import errno
import fractions
import math
import os
import socket
import sys

import pytest

import unixsock
from observed import assert_serves

TYPES = [socket.SOCK_STREAM, socket.SOCK_DGRAM]
if sys.platform != "darwin":  # which has no Unix-domain seqpacket sockets
    TYPES.append(socket.SOCK_SEQPACKET)
each_type = pytest.mark.parametrize("kind", TYPES, ids=lambda kind: kind.name)

NONBLOCK = getattr(socket, "SOCK_NONBLOCK", 0o4000)

BAD_TYPES = [
    ("type", 0, ValueError),
    ("type", socket.SOCK_RAW, ValueError),
    ("type", -1, ValueError),
    ("type", 10**30, ValueError),
    ("type", socket.SOCK_STREAM | NONBLOCK, ValueError),
    ("type", float(socket.SOCK_STREAM), ValueError),
    ("type", "SOCK_STREAM", ValueError),
    ("type", None, ValueError),
    ("type", [], ValueError),
]
BAD_MODES = [
    ("mode", -1, ValueError),
    ("mode", 0o1600, ValueError),
    ("mode", 0o100600, ValueError),
    ("mode", 10**30, ValueError),
    ("mode", 0, ValueError),
    ("mode", 0o577, ValueError),
    ("mode", True, ValueError),  # 0o001
    ("mode", 384.0, TypeError),
    ("mode", "0600", TypeError),
    ("mode", b"0600", TypeError),
]
BAD_BACKLOGS = [
    ("backlog", 1.0, TypeError),
    ("backlog", math.inf, TypeError),
    ("backlog", "128", TypeError),
]
BAD_TIMEOUTS = [
    ("timeout", -1, ValueError),
    ("timeout", -1e-300, ValueError),
    ("timeout", -math.inf, ValueError),
    ("timeout", math.nan, ValueError),
    ("timeout", "1", TypeError),
    ("timeout", b"1", TypeError),
    ("timeout", 1j, TypeError),
    ("timeout", [], TypeError),
]


class Index:
    """What operator.index() makes an integer of."""

    def __init__(self, value):
        self._value = value

    def __index__(self):
        return self._value


@pytest.mark.parametrize(("argument", "value", "error"), BAD_TYPES + BAD_MODES + BAD_BACKLOGS + BAD_TIMEOUTS)
def test_a_wrong_argument_is_named_and_nothing_has_been_created(directory, path, argument, value, error):
    with pytest.raises(error, match=rf"^{argument} must "):
        unixsock.bind_exclusive(path, **{argument: value})
    assert os.listdir(directory) == []


@pytest.mark.parametrize(("argument", "value", "error"), BAD_TYPES + BAD_BACKLOGS + BAD_TIMEOUTS)
def test_a_wrong_argument_of_an_abstract_name_is_named(argument, value, error):
    if sys.platform != "linux":
        pytest.skip("no abstract names here")
    with pytest.raises(error, match=rf"^{argument} must "):
        unixsock.bind_abstract("unixsock-never-bound", **{argument: value})


def test_a_datagram_socket_has_no_backlog_and_its_argument_is_checked_all_the_same(directory, path):
    with pytest.raises(TypeError, match=r"^backlog must "):
        unixsock.bind_exclusive(path, type=socket.SOCK_DGRAM, backlog="many")
    assert os.listdir(directory) == []


def test_all_but_the_address_goes_by_name(directory, path):
    with pytest.raises(TypeError, match="positional"):
        unixsock.bind_exclusive(path, socket.SOCK_DGRAM)
    with pytest.raises(TypeError, match="positional"):
        unixsock.bind_abstract("unixsock-never-bound", socket.SOCK_DGRAM)
    assert os.listdir(directory) == []


@each_type
def test_each_type_comes_back_bound_and_listening_if_it_can(path, kind):
    sock, guard = unixsock.bind_exclusive(path, type=kind)
    with guard, socket.socket(socket.AF_UNIX, kind) as client:
        assert sock.type == kind
        assert sock.getsockname() == path
        assert_serves(sock, kind, client, path)


@pytest.mark.parametrize("backlog", [None, 0, 1, 5, -1, -(2**31), True, Index(3)])
def test_the_backlog_admits_as_many_clients_as_it_does_on_a_plain_socket(directory, path, backlog):
    sock, guard = unixsock.bind_exclusive(path, backlog=backlog)
    with guard, socket.socket(socket.AF_UNIX) as plain:
        plain.bind(str(directory / "plain.sock"))
        plain.listen() if backlog is None else plain.listen(backlog)
        assert admitted(sock) == admitted(plain)


def test_the_largest_backlog_is_one_that_fits_a_c_int_and_a_larger_one_is_undone(path):
    unixsock.bind_exclusive(path, backlog=2**31 - 1)[1].close()
    with pytest.raises(OverflowError):
        unixsock.bind_exclusive(path, backlog=2**31)
    assert os.listdir(os.path.dirname(path)) == ["a.sock.lock"]
    unixsock.bind_exclusive(path)[1].close()


@pytest.mark.parametrize("timeout", [0, -0.0, False, 3, 0.5, fractions.Fraction(1, 3), math.inf, 10**300, None])
def test_a_free_address_is_bound_at_once_whatever_the_timeout(path, timeout):
    unixsock.bind_exclusive(path, timeout=timeout)[1].close()


def test_minus_zero_seconds_is_no_wait(path):
    with unixsock.bind_exclusive(path)[1], pytest.raises(unixsock.AddressInUseError):
        unixsock.bind_exclusive(path, timeout=-0.0)


@pytest.mark.parametrize("argument", [{"mode": Index(0o640)}, {"backlog": Index(0)}])
def test_an_integer_is_whatever_operator_index_takes(path, argument):
    unixsock.bind_exclusive(path, **argument)[1].close()


def admitted(sock):
    """How many clients can connect while nobody accepts them."""
    clients = []
    try:
        while True:
            clients.append(socket.socket(socket.AF_UNIX))
            clients[-1].settimeout(0)
            answer = clients[-1].connect_ex(sock.getsockname())
            if answer != 0:
                assert answer in (errno.EAGAIN, errno.ECONNREFUSED)
                return len(clients) - 1
    finally:
        for client in clients:
            client.close()


@pytest.mark.parametrize(
    ("mode", "reason"), [(0, "owner write permission"), (0o1000, "permission bits from 0 to 0o777")]
)
def test_a_mode_at_the_edge_is_refused_for_the_right_reason(path, mode, reason):
    with pytest.raises(ValueError, match=reason):
        unixsock.bind_exclusive(path, mode=mode)
