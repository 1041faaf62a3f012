"""A wrong argument is refused by its name, before anything is created; a good one reaches the kernel."""

import errno
import fractions
import math
import os
import socket

import pytest

import unixsock
from observed import on_linux, start_and_close

NONBLOCK = getattr(socket, "SOCK_NONBLOCK", 0o4000)

BAD_MODES = [
    *[("mode", value, ValueError) for value in (-1, 0o1000, 0o1600, 0o100600, 10**30)],
    *[("mode", value, ValueError) for value in (0, 0o577, True)],
    *[("mode", value, TypeError) for value in (384.0, "0600", b"0600")],
]
BAD_GROUPS = [
    *[("group", value, ValueError) for value in (-1, 2**32 - 1, 10**30, "", "no-such-group", "33", "a\0b")],
    *[("group", value, TypeError) for value in (True, False, 33.0, b"root", [])],
]
BAD_OTHERS = [
    *[("type", value, ValueError) for value in (0, socket.SOCK_RAW, -1, 10**30, socket.SOCK_STREAM | NONBLOCK)],
    *[("type", value, ValueError) for value in (float(socket.SOCK_STREAM), "SOCK_STREAM", None, [])],
    *[("backlog", value, TypeError) for value in (1.0, math.inf, "128")],
    *[("backlog", value, OverflowError) for value in (2**31, -(2**31) - 1, 10**30)],
    *[("timeout", value, ValueError) for value in (-1, -1e-300, -math.inf, math.nan)],
    *[("timeout", value, TypeError) for value in ("1", b"1", 1j, [])],
]


class Index:
    """What operator.index() makes an integer of."""

    def __init__(self, value):
        self._value = value

    def __index__(self):
        return self._value


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM])
@pytest.mark.parametrize(("argument", "value", "error"), BAD_MODES + BAD_GROUPS + BAD_OTHERS)
def test_a_wrong_argument_is_named_and_nothing_has_been_created(directory, path, kind, argument, value, error):
    with pytest.raises(error, match=rf"^{argument} must "):
        unixsock.bind_exclusive(path, **{"type": kind, "mode": 0o660, argument: value})
    assert os.listdir(directory) == []


@on_linux
@pytest.mark.parametrize(("argument", "value", "error"), BAD_OTHERS)
def test_a_wrong_argument_of_an_abstract_name_is_named(argument, value, error):
    with pytest.raises(error, match=rf"^{argument} must "):
        unixsock.bind_abstract("unixsock-never-bound", **{argument: value})


@pytest.mark.parametrize("backlog", [None, 0, 1, 5, -1, -(2**31), True, Index(3)])
def test_the_backlog_admits_as_many_clients_as_it_does_on_a_plain_socket(directory, path, backlog):
    sock, guard = unixsock.bind_exclusive(path, backlog=backlog)
    with guard, socket.socket(socket.AF_UNIX) as plain:
        plain.bind(str(directory / "plain.sock"))
        plain.listen() if backlog is None else plain.listen(backlog)
        assert type(sock) is type(plain)
        assert admitted(sock) == admitted(plain)


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


def test_the_largest_backlog_is_one_that_fits_a_c_int(path):
    start_and_close(path, backlog=2**31 - 1)


@pytest.mark.parametrize("timeout", [0, -0.0, False, 3, 0.5, fractions.Fraction(1, 3), math.inf, 10**300, None])
def test_a_free_path_is_bound_at_once_whatever_the_timeout(path, timeout):
    start_and_close(path, timeout=timeout)
