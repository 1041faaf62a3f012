"""Answer ZeroMQ requests on a Unix-domain socket that has one owner: with_pyzmq.py PATH."""

import os
import signal
import sys

import zmq

import unixsock


def main(path: str) -> None:
    """Exit status 0 after SIGTERM or Ctrl-C, 75 when the path is taken, 1 after another error."""
    try:
        sock, guard = unixsock.bind_exclusive(path, mode=0o660, timeout=5)
    except (OSError, ValueError) as error:
        print(f"with_pyzmq.py: {error}", file=sys.stderr)
        sys.exit(os.EX_TEMPFAIL if isinstance(error, unixsock.AddressInUseError) else 1)
    # The context's end, term(), waits until its thread has closed the socket. Only then the guard closes.
    with guard, zmq.Context() as context, context.socket(zmq.REP) as server:
        server.setsockopt(zmq.USE_FD, sock.detach())  # ZeroMQ closes the descriptor, hence detach()
        server.bind(f"ipc://{guard.address}")  # binds nothing: it listens on the descriptor
        print(f"pid {os.getpid()} listens at {guard.address}", flush=True)
        # ZeroMQ's own wait would not notice a signal that comes just before it.
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
