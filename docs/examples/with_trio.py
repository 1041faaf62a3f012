"""Answer HTTP with trio on a Unix-domain socket that has one owner: with_trio.py PATH."""

import os
import signal
import socket
import sys

import trio

import unixsock

LIMIT = 65536  # bytes that the head of a request may have


async def hello(stream: trio.SocketStream) -> None:
    """Answer one request by hand, because trio itself knows no HTTP. serve_listeners() closes the stream."""
    try:
        head = b""
        while b"\r\n\r\n" not in head:
            chunk = await stream.receive_some()
            if not chunk or len(head) > LIMIT:
                return
            head += chunk
        body = f"Hello from pid {os.getpid()}\n"
        answer = f"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {len(body)}\r\nConnection: close"
        await stream.send_all(f"{answer}\r\n\r\n{body}".encode())
    except trio.BrokenResourceError:
        pass  # the client has gone


async def serve(sock: socket.socket) -> None:
    """Serve until SIGTERM or Ctrl-C."""
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with trio.open_nursery() as nursery:
            # The listener owns the socket from here on, and closes it.
            listener = trio.SocketListener(trio.socket.from_stdlib_socket(sock))
            nursery.start_soon(trio.serve_listeners, hello, [listener])
            async for _ in signals:
                nursery.cancel_scope.cancel()


def main(path: str) -> None:
    """Exit with status 0 after SIGTERM or Ctrl-C, with 75 if the path is taken, and with 1 after any other error."""
    try:
        sock, guard = unixsock.bind_exclusive(path, mode=0o660, timeout=5)
    except (OSError, ValueError) as error:
        print(f"with_trio.py: {error}", file=sys.stderr)
        sys.exit(os.EX_TEMPFAIL if isinstance(error, unixsock.AddressInUseError) else 1)
    with guard:
        print(f"pid {os.getpid()} listens at {guard.address}", flush=True)
        trio.run(serve, sock)


if __name__ == "__main__":
    if not sys.argv[1:]:
        sys.exit(__doc__)
    main(sys.argv[1])
