"""What a test looks at from outside: which descriptors are open, and whether a socket serves."""

import os
import socket


def open_descriptors():
    """The descriptors of this process, each with what it refers to where /proc tells."""
    where = "/proc/self/fd" if os.path.isdir("/proc/self/fd") else "/dev/fd"
    found = {}
    for number in map(int, os.listdir(where)):
        try:
            os.fstat(number)
        except OSError:
            continue  # the descriptor of the listing itself
        found[number] = os.readlink(f"/proc/self/fd/{number}") if where.startswith("/proc") else ""
    return found


def assert_serves(sock, kind, client, address):
    """Whether it listens is as its `kind` has it, and what `client` sends to `address` arrives."""
    listening = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    assert bool(listening) == (kind != socket.SOCK_DGRAM)
    client.connect(address)
    client.send(b"ping")
    if listening:
        served, _ = sock.accept()
        with served:
            assert served.recv(4) == b"ping"
    else:
        assert sock.recv(4) == b"ping"
