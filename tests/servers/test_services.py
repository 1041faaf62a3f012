"""docs/deployment.md with what it names: uvicorn, gunicorn and hypercorn behind exec, nginx, runit, s6, supervisord."""

import contextlib
import grp
import os
import re
import select
import shlex
import signal
import socket
import subprocess
import sys

import pytest

import unixsock
from children import PATIENCE, Child
from markdown import block, read
from observed import as_root, leave_stale
from programs import EXAMPLES, Connection, Program, end, refused, served_by, until_refused

EXEC_SERVER = str(EXAMPLES / "exec_server.py")
PAGE = read("docs/deployment.md")
LINES = re.findall(r"^python exec_server\.py \S+ (.*)$", block(PAGE, "exec_server"), re.MULTILINE)
assert len(LINES) == 3, "the page shows uvicorn, gunicorn and hypercorn"

UNIT = (EXAMPLES / "app.service").read_text(encoding="utf-8")

# When it is imported, the path is bound. It answers for its process group, whose leader the server is.
APP = r"""
import os
print("imported", flush=True)
def wsgi(environ, start_response):
    start_response("200 OK", [])
    return [f"Hello from pid {os.getpgid(0)}\n".encode()]
async def app(scope, receive, send):
    if scope["type"] == "http":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": f"Hello from pid {os.getpgid(0)}\n".encode()})
"""
SERVE = (
    "while True: client = sock.accept()[0]; client.recv(4096); client.send(b'HTTP/1.0 200 OK\\n\\n'); client.close()"
)
NGINX = """
{user} pid {place}/pid; error_log {place}/errors; events {{}}
http {{ access_log off; server {{ listen unix:{place}/front; location / {{ proxy_pass http://unix:{path}:/; }} }} }}
"""


@pytest.mark.parametrize("line", LINES, ids=lambda line: line.split()[0])
def test_a_server_on_the_pages_lines_is_alone_and_starts_again_after_kill_9(line, path, directory, monkeypatch):
    monkeypatch.setenv("PATH", os.path.dirname(sys.executable), prepend=os.pathsep)
    (directory / "app.py").write_text(APP)
    kill = os.killpg if "gunicorn" in line else os.kill  # its workers would take their time to notice
    for number in (signal.SIGKILL, signal.SIGTERM):
        with Program([sys.executable, EXEC_SERVER, path, *shlex.split(line)], cwd=directory) as server:
            assert server.line() == "imported"
            assert served_by(path) == server.pid
            assert refused("exec_server.py", path, *shlex.split(line))[0] == os.EX_TEMPFAIL
            assert served_by(path) == server.pid
            kill(server.pid, number)
            server.wait()


# Holds its first request back: it writes a byte to `held`, and waits for one from `release`.
SLOW = r"""
import asyncio, os
print("imported", flush=True)
async def app(scope, receive, send):
    if scope["type"] == "http":
        if scope["path"] == "/slow":
            os.write({held}, b".")
            readable = asyncio.Event()
            asyncio.get_running_loop().add_reader({release}, readable.set)
            await readable.wait()
        await send({{"type": "http.response.start", "status": 200, "headers": []}})
        await send({{"type": "http.response.body", "body": b"Hello from pid %d\n" % os.getpgid(0)}})
def wsgi(environ, start_response):
    if environ["PATH_INFO"] == "/slow":
        os.write({held}, b".")
        os.read({release}, 1)
    start_response("200 OK", [])
    return [b"Hello from pid %d\n" % os.getpgid(0)]
"""
SERVE_PY = (EXAMPLES / "with_uvicorn.py").read_text(encoding="utf-8")
SERVE_PY = re.sub(r"async def hello.*?\n\n\n", "from app import app as hello\n\n\n", SERVE_PY, flags=re.DOTALL)
STARTS = {line.split()[0]: [EXEC_SERVER, "PATH", *shlex.split(line)] for line in LINES}
STARTS["the unit"] = re.search(r"^ExecStart=/usr/bin/python3 (.*)$", UNIT, re.MULTILINE)[1].split()


@pytest.mark.parametrize("start", STARTS)
def test_new_clients_are_refused_while_a_server_drains_but_connect_to_uvicorns_fd(start, path, directory, monkeypatch):
    monkeypatch.setenv("PATH", os.path.dirname(sys.executable), prepend=os.pathsep)
    pipes = [os.pipe() for _ in range(2)]
    (held, tell), (wait, release) = pipes
    (directory / "app.py").write_text(SLOW.format(held=tell, release=wait))
    (directory / "serve.py").write_text(SERVE_PY)
    command = [path if argument in {"PATH", "/run/app/app.sock"} else argument for argument in STARTS[start]]
    with contextlib.ExitStack() as stack:
        for number in sum(pipes, ()):
            stack.callback(os.close, number)
        command = ["sh", "-c", 'exec "$@" 2>&1', "sh", sys.executable, *command]
        server = stack.enter_context(Program(command, cwd=directory, pass_fds=[tell, wait]))
        until_said("listens" if start == "the unit" else "imported", server)  # the path is bound by then
        assert served_by(path) == server.pid
        client = stack.enter_context(contextlib.closing(Connection(path)))
        client.request("GET", "/slow")
        assert select.select([held], [], [], PATIENCE)[0]
        os.kill(server.pid, signal.SIGTERM)
        late = stack.enter_context(socket.socket(socket.AF_UNIX))
        late.settimeout(PATIENCE)
        if start == "uvicorn":
            until_said("Waiting for connections to close", server)
            late.connect(path)
        else:
            until_refused(path)
        assert not select.select([client.sock], [], [], 0)[0]  # still in progress
        os.write(release, b".")
        assert client.getresponse().read() == b"Hello from pid %d\n" % server.pid
        client.close()
        server.wait()
        if start == "uvicorn":
            with contextlib.suppress(ConnectionResetError):
                assert late.recv(1) == b""
    if start == "the unit":
        assert not os.path.exists(path)


def until_said(words, program):
    while words not in program.line():
        pass


# How the socket file gets its group: by the page's line, as root and as a member, or by a setgid directory.
BIND_LINE = re.search(r"^sock, guard = .*group=.*$", PAGE, re.MULTILINE)[0].replace("www-data", "daemon")
SETGID_LINE = re.search(r"^ *install -d .*$", PAGE, re.MULTILINE)[0].replace(" app ", " nobody ")
MEMBER = "os.setgroups([group]); os.setgid(65534); os.setuid(65534)"
WAYS = {
    "group=, root": ("install -d -m 755 /run/app", "", BIND_LINE),
    "group=, a member": ("install -d -o nobody -m 755 /run/app", MEMBER, BIND_LINE),
    "a setgid directory": (
        SETGID_LINE.replace("www-data", "daemon"),
        "os.setgroups([]); os.setgid(65534); os.setuid(65534)",
        "sock, guard = unixsock.bind_exclusive('/run/app/app.sock', mode=0o660)",
    ),
}


@contextlib.contextmanager
def nginx_status(directory, path, group):
    """What nginx answers for the server at `path`; its workers have that group. And its error log."""
    user = f"user daemon {group};" if os.geteuid() == 0 else ""
    (directory / "conf").write_text(NGINX.format(user=user, place=directory, path=path))
    subprocess.run(
        ["nginx", "-c", directory / "conf"], capture_output=True, timeout=PATIENCE, check=True
    )  # it listens now
    try:
        with contextlib.closing(Connection(str(directory / "front"))) as client:
            client.request("GET", "/")
            yield client.getresponse().status, (directory / "errors").read_text()
    finally:
        end(int((directory / "pid").read_text()), signal.SIGTERM)


@as_root
@pytest.mark.parametrize(("group", "status"), [("daemon", 200), ("nogroup", 502)])
@pytest.mark.parametrize("way", WAYS)
def test_nginx_connects_only_as_a_member_of_the_socket_files_group(way, group, status, directory):
    make_directory, give_up_root, bind = WAYS[way]
    place = str(directory / "app")
    directory.chmod(0o755)
    subprocess.run(shlex.split(make_directory.replace("/run/app", place)), check=True, timeout=PATIENCE)
    with Child() as server:
        server.do(give_up_root, group=grp.getgrnam("daemon").gr_gid)
        server.do(bind.replace("/run/app", place))
        server.start(SERVE)
        with nginx_status(directory, f"{place}/app.sock", group) as (answered, log):
            assert answered == status
            assert ("13: Permission denied" in log) == (status == 502)


def leave_nothing(path, stack):
    assert not os.path.exists(path)


def leave_a_stale_file(path, stack):
    leave_stale(path)


def fill_the_queue(path, stack):
    stack.enter_context(unixsock.bind_exclusive(path, mode=0o666, backlog=0)[1])
    client = stack.enter_context(socket.socket(socket.AF_UNIX))
    client.connect(path)  # nobody accepts it


LOGGED = {
    "2: No such file or directory": leave_nothing,
    "111: Connection refused": leave_a_stale_file,
    "11: Resource temporarily unavailable": fill_the_queue,
}


@pytest.mark.parametrize("message", LOGGED)
def test_nginx_logs_what_the_page_lists(message, path, directory):
    assert f"| `{message}` |" in PAGE
    directory.chmod(0o755)
    with contextlib.ExitStack() as stack:
        LOGGED[message](path, stack)
        if os.path.exists(path):
            os.chmod(path, 0o666)
        with nginx_status(directory, path, "daemon") as (answered, log):
            assert answered == 502
            assert f"({message})" in log


@pytest.mark.parametrize("supervisor", ["runsv", "s6-supervise", "supervisord"])
def test_a_supervisor_starts_it_again_after_status_75_until_the_owner_has_ended(
    supervisor, path, directory, monkeypatch
):
    monkeypatch.setenv("PATH", os.path.dirname(sys.executable), prepend=os.pathsep)
    # supervisord starts a program again that took longer than its startsecs, 1; startretries is for the others.
    waits, then = ("1.5", "entered RUNNING") if supervisor == "supervisord" else ("0", "serves")
    serves = [sys.executable, "-c", "import time; print('serves', flush=True); time.sleep(60)"]
    command = shlex.join([sys.executable, EXEC_SERVER, "--timeout", waits, path, *serves])
    for name, text in {"run": f"exec {command}", "finish": 'echo "status $1"'}.items():
        (directory / name).write_text(f"#!/bin/sh\n{text}\n")
        (directory / name).chmod(0o755)
    program = block(PAGE, "[program:app]").replace("/usr/bin/python3 serve.py /run/app/app.sock", command)
    program = program.replace("directory=/opt/app\nuser=app\n", "startretries=0\n")
    (directory / "conf").write_text(
        f"[supervisord]\nnodaemon=true\nlogfile={directory}/log\npidfile={directory}/pid\n{program}"
    )
    arguments = ["-c", str(directory / "conf")] if supervisor == "supervisord" else [str(directory)]
    with unixsock.bind_exclusive(path)[1] as guard, Program([supervisor, *arguments]) as running:
        for said in ("status 75", then):
            while said not in running.line():
                pass
            guard.close()
        os.kill(running.pid, signal.SIGTERM)  # it ends what it has started
        running.wait()
