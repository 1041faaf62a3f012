"""Serve HTTP to our own user alone, until Ctrl-C or SIGTERM: peer.py ADDRESS. And ask it: peer.py ADDRESS ask.

ADDRESS is an abstract name on Linux, where the kernel's word on who is connecting is all the protection there is,
and a path elsewhere.
"""

from __future__ import annotations

import ctypes
import http.client
import http.server
import os
import signal
import socket
import socketserver
import struct
import sys
import threading

import unixsock

STOP = {signal.SIGINT, signal.SIGTERM}
NOBODY = 65534  # user_namespaces(7), /proc/sys/kernel/overflowuid
SO_PEERCRED = getattr(socket, "SO_PEERCRED", 17)  # PyPy has no name for it


def uid_of_peer(sock: socket.socket) -> int | None:
    """The effective user id that the other end had when it called connect(2), or listen(2) if it is the server.

    None if the kernel cannot tell: gVisor answers with the credentials of the process that asks. So a client in the
    server's own process cannot be told apart from that, and counts as unknown, too.
    """
    if sys.platform == "linux":
        credentials = struct.Struct("iII")  # pid, uid, gid: unix(7)
        pid, uid, _ = credentials.unpack(sock.getsockopt(socket.SOL_SOCKET, SO_PEERCRED, credentials.size))
        return None if pid == os.getpid() else int(uid)
    user, group = ctypes.c_uint32(), ctypes.c_uint32()
    if ctypes.CDLL(None, use_errno=True).getpeereid(sock.fileno(), ctypes.byref(user), ctypes.byref(group)):
        raise OSError(ctypes.get_errno(), "getpeereid")
    return user.value


def is_ours(uid: int | None) -> bool:
    """Whether it is our user's. Not if it is 65534: in a user namespace, every user without a number shows as that."""
    return uid == os.geteuid() and uid != NOBODY


def name_of(uid: int | None) -> str:
    """For messages."""
    return "an unknown user" if uid is None else f"uid {uid}"


class Hello(http.server.BaseHTTPRequestHandler):
    """Answers every GET with the pid of the server."""

    timeout = 10.0  # seconds for a client to say something

    def do_GET(self) -> None:
        """Called by http.server."""
        self.send_response(200)
        self.end_headers()
        self.wfile.write(f"Hello from pid {os.getpid()}\n".encode())

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name
        """No log. The inherited one takes the client's host, and here a client has none."""


class OurUserOnly(socketserver.ThreadingUnixStreamServer):
    """Hangs up on other users before it has read a byte."""

    daemon_threads = True  # clients that are not done do not keep the server from ending

    def verify_request(self, request: socket.socket | tuple[bytes, socket.socket], client_address: object) -> bool:
        """Called by socketserver."""
        del client_address  # empty: a Unix-domain client has none
        if isinstance(request, tuple):
            return False  # a datagram has no peer
        try:
            uid = uid_of_peer(request)
        except OSError:
            return False  # gone already
        if not is_ours(uid):
            print(f"{name_of(uid)} is turned away", flush=True)
            return False
        return True


def serve(address: str) -> None:
    """Exit status 0 after Ctrl-C or SIGTERM, 75 when the address is taken, 1 after another error."""
    signal.pthread_sigmask(signal.SIG_BLOCK, STOP)
    bind = unixsock.bind_abstract if sys.platform == "linux" else unixsock.bind_exclusive
    try:
        sock, guard = bind(address, timeout=5)
    except (OSError, ValueError) as error:
        print(f"peer.py: {error}", file=sys.stderr)
        sys.exit(os.EX_TEMPFAIL if isinstance(error, unixsock.AddressInUseError) else 1)

    with guard, OurUserOnly("", Hello, bind_and_activate=False) as server:
        server.socket.close()  # one of its own, not bound
        server.socket = sock
        threading.Thread(target=server.serve_forever, daemon=True).start()
        print(f"pid {os.getpid()} listens at {address}", flush=True)
        signal.sigwait(STOP)
        server.shutdown()


def ask(address: str) -> None:
    """Print what the server answers. Exit status 1 when there is none, or another user's."""
    connection = http.client.HTTPConnection("localhost")
    connection.sock = socket.socket(socket.AF_UNIX)
    with connection.sock as sock:
        try:
            sock.connect("\0" + address if sys.platform == "linux" else address)
            # Any user could have taken the name before our server did. So ask whose it is, before anything is sent.
            uid = uid_of_peer(sock)
            if not is_ours(uid):
                sys.exit(f"peer.py: {address} is not our server's: it belongs to {name_of(uid)}")
            connection.request("GET", "/")
            print(connection.getresponse().read().decode(), end="")
        except OSError as error:  # no server listens, or it has hung up
            sys.exit(f"peer.py: {address}: {error}")


if __name__ == "__main__":
    if not sys.argv[1:]:
        sys.exit(__doc__)
    elif sys.argv[2:] == ["ask"]:
        ask(sys.argv[1])
    else:
        serve(sys.argv[1])
