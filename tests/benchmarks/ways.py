"""Usual ways to bind a Unix-domain socket, each its own unmodified code, for comparison.py to measure.

    python ways.py KEY PATH DIRECTORY    one server in a process of its own

The process answers each client with its name. Its standard input is a socket, over which it takes orders.
"""

# ruff: noqa: PLC0415 - each way imports what it needs, in its own process and where it is installed

from __future__ import annotations

import contextlib
import json
import os
import platform
import re
import signal
import socket
import stat
import sys
import threading
import time

UMASK = 0o022
SILENCE = 3.0  # seconds after which nothing more is expected to happen
NAME = f"={os.environ.get('WAYS_NAME')}="
ME = NAME.encode()  # what this process answers


# A label with a place for the version; the distribution, None where nothing has to be installed; and a function of the
# path that gets ready, calls go(), binds, and serves until SIGINT.
WAYS = {}
CLEAN_UP = []  # the way's own clean-up, if it has one: a forked child calls it


def way(key, label, distribution=None):
    def register(function):
        WAYS[key] = (label, distribution, function)
        return function

    return register


def wsgi_app(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(ME)))])
    return [ME]


async def asgi_app(scope, receive, send):
    if scope["type"] == "http":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": ME})


def accept_for_ever(sock):
    while True:
        with sock.accept()[0] as client:
            client.recv(4096)
            client.sendall(ME)


@way("unixsock", "unixsock")
def by_unixsock(path):
    import unixsock

    go()
    sock, guard = unixsock.bind_exclusive(path)
    CLEAN_UP.append(guard.close)
    with guard:
        accept_for_ever(sock)


@way("asyncio", f"asyncio, {platform.python_implementation().replace('CPython', 'Python')} {platform.python_version()}")
def by_asyncio(path):
    import asyncio

    async def answer(reader, writer):
        await reader.read(4096)
        writer.write(ME)
        writer.close()

    async def serve():
        server = await asyncio.start_unix_server(answer, path)
        CLEAN_UP.append(server.close)
        async with server:
            await server.serve_forever()

    go()
    asyncio.run(serve())


@way("gunicorn", "gunicorn {}", "gunicorn")
def by_gunicorn(path):
    from gunicorn.app.wsgiapp import run

    go()
    sys.argv = ["gunicorn", "--bind", f"unix:{path}", "ways:wsgi_app"]
    run()


@way("uvicorn", "uvicorn {}", "uvicorn")
def by_uvicorn(path):
    import uvicorn

    go()
    uvicorn.run(asgi_app, uds=path)


@way("hypercorn", "hypercorn {}", "hypercorn")
def by_hypercorn(path):
    import asyncio

    import hypercorn.asyncio

    config = hypercorn.Config()
    config.bind = [f"unix:{path}"]
    go()
    asyncio.run(hypercorn.asyncio.serve(asgi_app, config))


@way("aiohttp", "aiohttp {}", "aiohttp")
def by_aiohttp(path):
    import asyncio

    from aiohttp import web

    async def answer(request):
        return web.Response(body=ME)

    async def serve():
        runner = web.ServerRunner(web.Server(answer))
        await runner.setup()
        site = web.UnixSite(runner, path)
        await site.start()
        CLEAN_UP.append(lambda: asyncio.run(site.stop()))
        try:
            await asyncio.Event().wait()
        finally:
            await runner.cleanup()

    go()
    asyncio.run(serve())


@way("twisted-wantpid", "Twisted {}, wantPID", "Twisted")
def by_twisted_with_a_lock(path):
    by_twisted(path, lock=True)


@way("twisted", "Twisted {}", "Twisted")
def by_twisted(path, *, lock=False):
    from twisted.internet import protocol, reactor

    class Answer(protocol.Protocol):
        def dataReceived(self, data):  # noqa: ARG002, N802 - as Twisted calls it
            self.transport.write(ME)
            self.transport.loseConnection()

    def clean_up():
        port.stopListening()
        reactor.runUntilCurrent()

    go()
    port = reactor.listenUNIX(path, protocol.Factory.forProtocol(Answer), wantPID=lock)
    CLEAN_UP.append(clean_up)
    reactor.run()


@way("tornado", "tornado {}", "tornado")
def by_tornado(path):
    import asyncio

    from tornado.httpserver import HTTPServer
    from tornado.netutil import bind_unix_socket
    from tornado.wsgi import WSGIContainer

    async def serve():
        server = HTTPServer(WSGIContainer(wsgi_app))
        server.add_socket(bind_unix_socket(path))
        CLEAN_UP.append(server.stop)
        try:
            await asyncio.Event().wait()
        finally:
            server.stop()

    go()
    asyncio.run(serve())


@way("anyio", "anyio {}", "anyio")
def by_anyio(path):
    import anyio

    async def answer(stream):
        async with stream:
            await stream.receive()
            await stream.send(ME)

    async def serve():
        async with await anyio.create_unix_listener(path) as listener:
            CLEAN_UP.append(lambda: anyio.run(listener.aclose))
            await listener.serve(answer)

    go()
    anyio.run(serve)


@way("waitress", "waitress {}", "waitress")
def by_waitress(path):
    import waitress

    go()
    server = waitress.create_server(wsgi_app, unix_socket=path)
    CLEAN_UP.append(server.close)
    server.run()


@way("cheroot", "cheroot {}", "cheroot")
def by_cheroot(path):
    from cheroot import wsgi

    go()
    server = wsgi.Server(path, wsgi_app)
    CLEAN_UP.append(server.stop)
    server.safe_start()


@way("granian", "granian {}", "granian")
def by_granian(path):
    from pathlib import Path

    import granian

    go()
    granian.Granian("ways:wsgi_app", interface="wsgi", uds=Path(path)).serve()


@way("supervisor", "supervisor {}", "supervisor")
def by_supervisor(path):
    from supervisor.supervisord import main

    # Its page lists programs. One that never runs has our name.
    sections = f"""
        [supervisord]\nnodaemon=true\nlogfile=/dev/null\npidfile={NAME}.pid
        [unix_http_server]\nfile={path}
        [rpcinterface:supervisor]\nsupervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface
        [program:{NAME}]\ncommand=true\nautostart=false"""
    with open(f"{NAME}.conf", "w") as config:
        config.write(sections.replace(" " * 8, ""))
    go()
    main(["-c", f"{NAME}.conf"])


@way("filelock", "filelock {}, then unlink and bind", "filelock")
def by_filelock(path):
    import filelock

    lock = filelock.FileLock(f"{path}.lock")
    go()
    with lock.acquire(timeout=0):
        unlink(path)
        bind_and_unlink_at_exit(path, lock.release)


@way("unlink-bind", "unlink, then bind")
def by_unlink_and_bind(path):
    go()
    unlink(path)
    bind_and_unlink_at_exit(path)


@way("bind-unlink", "bind, unlink at exit")
def by_bind_alone(path):
    go()
    bind_and_unlink_at_exit(path)


def unlink(path):
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)


def bind_and_unlink_at_exit(path, *more):
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(path)
        sock.listen()
        CLEAN_UP.extend([sock.close, lambda: unlink(path), *more])
        try:
            accept_for_ever(sock)
        finally:
            unlink(path)


# From here on: orders. Each is a line, and so is each answer.

_seen = {"umask": None, "before": []}  # the umask at bind; before each chmod, the file's mode and who listens


def go():
    """Say that all is ready, and wait for the word. A thread obeys what comes later."""
    orders = open(0, "rb", buffering=0, closefd=False)  # noqa: SIM115 - as long as the process lives
    say("ready")
    orders.readline()
    threading.Thread(target=obey, args=[orders], daemon=True).start()


def say(what):
    os.write(0, json.dumps(what).encode() + b"\n")


def obey(orders):
    for order in orders:
        name, _, path = order.decode().rstrip("\n").partition(" ")
        say(os.chdir(path) if name == "chdir" else fork_and_clean_up() if name == "fork" else _seen)
    os.killpg(0, signal.SIGKILL)  # comparison.py has ended


def watch(path, event):
    """An audit hook: Python reports each bind and chmod before it happens."""
    if event == "socket.bind":
        with open("/proc/self/status") as status:
            _seen["umask"] = int(re.search(r"^Umask:\s*(\d+)", status.read(), re.MULTILINE)[1], 8)
    elif event == "os.chmod" and os.path.exists(path):
        _seen["before"].append([stat.S_IMODE(os.stat(path).st_mode), listeners(path)])


def fork_and_clean_up():
    """Whether a forked child comes to the end of the clean-up; None where there is nothing to call."""
    if not CLEAN_UP:
        return None
    pid = os.fork()
    if pid == 0:
        try:
            for clean_up in CLEAN_UP:
                clean_up()
        finally:
            os._exit(0)
    if until(lambda: os.waitpid(pid, os.WNOHANG)[0], SILENCE):
        return True
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return False


def until(condition, seconds):
    """Whether it comes true in time. Asked again and again, since no server reports that it is ready."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True


def listeners(path):
    """How many sockets listen that were bound to `path` or a temporary name, reachable or not (proc(5))."""
    with open("/proc/net/unix", "rb") as table:
        rows = [line.split(maxsplit=7) for line in table]
    return sum(row[3] == b"00010000" and row[-1].startswith(os.fsencode(path)) for row in rows)


if __name__ == "__main__":
    key, path, directory = sys.argv[1:]
    os.umask(UMASK)
    os.chdir(directory)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
    bound = os.path.join(directory, path)
    sys.addaudithook(lambda event, _: watch(bound, event))
    WAYS[key][2](path)
