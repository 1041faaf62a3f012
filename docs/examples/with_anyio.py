"""Answer HTTP with anyio on a Unix-domain socket that has one owner: with_anyio.py PATH."""

import os
import signal
import socket
import sys

import anyio
from anyio.abc import SocketListener, SocketStream
from anyio.streams.buffered import BufferedByteReceiveStream

import unixsock


async def hello(stream: SocketStream) -> None:
    """Answer one request by hand, because anyio itself knows no HTTP."""
    async with stream:
        try:
            await BufferedByteReceiveStream(stream).receive_until(b"\r\n\r\n", 65536)
            body = f"Hello from pid {os.getpid()}\n"
            head = f"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {len(body)}\r\nConnection: close"
            await stream.send(f"{head}\r\n\r\n{body}".encode())
        except (anyio.IncompleteRead, anyio.DelimiterNotFound, anyio.BrokenResourceError):
            pass  # that was no request, or the client has gone


async def serve(sock: socket.socket) -> None:
    """Serve until SIGTERM or Ctrl-C."""
    with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        # The listener owns the socket from here on, and closes it.
        async with await SocketListener.from_socket(sock) as listener, anyio.create_task_group() as tasks:
            tasks.start_soon(listener.serve, hello)
            async for _ in signals:
                tasks.cancel_scope.cancel()


def main(path: str) -> None:
    """Exit with status 0 after SIGTERM or Ctrl-C, with 75 if the path is taken, and with 1 after any other error."""
    try:
        sock, guard = unixsock.bind_exclusive(path, mode=0o660, timeout=5)
    except (OSError, ValueError) as error:
        print(f"with_anyio.py: {error}", file=sys.stderr)
        sys.exit(os.EX_TEMPFAIL if isinstance(error, unixsock.AddressInUseError) else 1)
    with guard:
        print(f"pid {os.getpid()} listens at {guard.address}", flush=True)
        anyio.run(serve, sock)


if __name__ == "__main__":
    if not sys.argv[1:]:
        sys.exit(__doc__)
    main(sys.argv[1])
