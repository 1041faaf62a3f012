"""Answer HTTP with asyncio streams on a Unix-domain socket that has one owner: with_asyncio.py PATH."""

import asyncio
import os
import signal
import socket
import sys

import unixsock


async def hello(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer one request by hand, because asyncio itself knows no HTTP."""
    try:
        await reader.readuntil(b"\r\n\r\n")
        body = f"Hello from pid {os.getpid()}\n"
        head = f"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {len(body)}\r\nConnection: close"
        writer.write(f"{head}\r\n\r\n{body}".encode())
        await writer.drain()
    except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, ConnectionError, asyncio.CancelledError):
        pass  # that was no request, the client has gone, or the loop ends, which Python 3.11 and 3.12 would report
    finally:
        writer.close()


async def serve(sock: socket.socket) -> None:
    """Serve until SIGTERM or Ctrl-C."""
    stopped = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    # asyncio closes the socket, and from Python 3.13 on it also unlinks the path. The guard still holds the lock then.
    server = await asyncio.start_unix_server(hello, sock=sock)
    await stopped.wait()
    server.close()  # without wait_closed(), which waits for clients that send nothing


def main(path: str) -> None:
    """Exit with status 0 after SIGTERM or Ctrl-C, with 75 if the path is taken, and with 1 after any other error."""
    try:
        sock, guard = unixsock.bind_exclusive(path, mode=0o660, timeout=5)
    except (OSError, ValueError) as error:
        print(f"with_asyncio.py: {error}", file=sys.stderr)
        sys.exit(os.EX_TEMPFAIL if isinstance(error, unixsock.AddressInUseError) else 1)
    with guard:
        print(f"pid {os.getpid()} listens at {guard.address}", flush=True)
        asyncio.run(serve(sock))


if __name__ == "__main__":
    if not sys.argv[1:]:
        sys.exit(__doc__)
    main(sys.argv[1])
