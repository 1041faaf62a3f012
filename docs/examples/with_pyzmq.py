"""Answer ZeroMQ requests on a Unix-domain socket that has one owner: with_pyzmq.py PATH."""

import os
import signal
import sys

import zmq

import unixsock


def main(path: str) -> None:
    """Exit with status 0 after SIGTERM or Ctrl-C, with 75 if the path is taken, and with 1 after any other error."""
    try:
        sock, guard = unixsock.bind_exclusive(path, mode=0o660, timeout=5)
    except (OSError, ValueError) as error:
        print(f"with_pyzmq.py: {error}", file=sys.stderr)
        sys.exit(os.EX_TEMPFAIL if isinstance(error, unixsock.AddressInUseError) else 1)
    # At its end the context waits, in term(), until its thread has closed the socket. The guard closes after that.
    with guard, zmq.Context() as context, context.socket(zmq.REP) as server:
        server.setsockopt(zmq.USE_FD, sock.detach())  # not fileno(), because ZeroMQ closes the descriptor
        server.bind(f"ipc://{guard.address}")  # this binds nothing, it listens on the descriptor
        print(f"pid {os.getpid()} listens at {guard.address}", flush=True)
        # ZeroMQ's own wait would miss a signal that comes just before it.
        stopped, stop = os.pipe()
        os.set_blocking(stop, False)
        signal.set_wakeup_fd(stop)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: None)
        poller = zmq.Poller()
        poller.register(server, zmq.POLLIN)
        poller.register(stopped, zmq.POLLIN)
        while stopped not in dict(poller.poll()):
            server.recv()
            server.send(f"Hello from pid {os.getpid()}\n".encode())


if __name__ == "__main__":
    if not sys.argv[1:]:
        sys.exit(__doc__)
    main(sys.argv[1])
