"""What restarts cost the clients of nginx: restarts.py [RESTARTS]. Needs nginx, and gunicorn and uvicorn beside us.

Four clients ask nginx without a pause, each request over a connection of its own, while the server behind it is
restarted RESTARTS times (4). A request is lost when the answer is not 200. The time is the longest between two answers.
"""

import collections
import contextlib
import http.client
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

from programs import EXAMPLES, Connection, Program, WithoutPause, served_by

NGINX = """
daemon off; pid {place}/pid; error_log {place}/errors; events {{}}
http {{
    access_log off;
    upstream app {{ {servers} }}
    server {{ listen unix:{place}/front; location / {{ proxy_pass http://app; }} }}
}}
"""


class Copies:
    """Copies of an example, each at a path of its own."""

    def __init__(self, example, place, count):
        self.paths = [f"{place}/{i}.sock" for i in range(count)]
        self._example = str(EXAMPLES / example)
        self._running = {path: self._start(path) for path in self.paths}

    def _start(self, path):
        environment = {**os.environ, "XDG_RUNTIME_DIR": os.path.dirname(path)}  # where gunicorn would have a socket
        program = Program([sys.executable, self._example, path], env=environment)
        program.line()
        served_by(path)
        return program

    def restart(self):
        """Stop and start each copy, one after the other."""
        for path in self.paths:
            os.kill(self._running[path].pid, signal.SIGTERM)
            self._running[path].wait()
            self._running[path] = self._start(path)

    def signal(self, number):
        """Have the one copy replace its workers, or itself, and wait until another process answers."""
        [path] = self.paths
        program = self._running[path]
        before = {served_by(path) for _ in range(20)}
        os.kill(getattr(program, "current", program.pid), number)
        while (pid := served_by(path)) in before:
            time.sleep(0.05)
        if number == signal.SIGUSR2:
            program.current = pid

    def end(self):
        """End them all."""
        for program in self._running.values():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(program.pid, signal.SIGKILL)
            program.wait()


class Clients(WithoutPause):
    """Clients that ask without a pause until the end of the with statement."""

    def __init__(self, front, method):
        super().__init__(*4 * [self._ask])
        self.answers = collections.Counter()  # by status, or by the error that there was instead
        self.pause = 0.0  # seconds, the longest in which nobody was answered 200
        self._front, self._method = front, method
        self._last = time.monotonic()
        self._lock = threading.Lock()

    def __exit__(self, *exc_info):
        super().__exit__(*exc_info)
        self.pause = max(self.pause, time.monotonic() - self._last)

    def _ask(self):
        answer, now = self._answer(), time.monotonic()
        with self._lock:
            self.answers[answer] += 1
            if answer == 200:
                self.pause = max(self.pause, now - self._last)
                self._last = now

    def _answer(self):
        try:
            with contextlib.closing(Connection(self._front)) as client:
                client.request(self._method, "/", headers={"Connection": "close"})
                response = client.getresponse()
                response.read()
                return response.status
        except (OSError, http.client.HTTPException) as error:
            return type(error).__name__


@contextlib.contextmanager
def nginx(place, paths, options):
    """In front of the servers at these paths, for clients at the path that it returns."""
    front, conf = f"{place}/front", Path(place, "conf")
    user = "user root; " if os.geteuid() == 0 else ""
    servers = " ".join(f"server unix:{path} {options};" for path in paths)
    conf.write_text(user + NGINX.format(place=place, servers=servers), encoding="utf-8")
    with subprocess.Popen(["nginx", "-c", conf], stderr=subprocess.DEVNULL) as process:
        while not os.path.exists(front):
            time.sleep(0.01)
        try:
            yield front
        finally:
            process.terminate()


def measured(example, count, restart, times, method="GET", options="max_fails=0"):
    """The clients of an example that is restarted so many times."""
    with tempfile.TemporaryDirectory(prefix="us-", dir="/tmp") as place:
        copies = Copies(example, place, count)
        try:
            with nginx(place, copies.paths, options) as front, Clients(front, method) as clients:
                time.sleep(0.5)
                for _ in range(times):
                    restart(copies)
                    time.sleep(0.5)
        finally:
            copies.end()
    return clients


def main(times):
    """Print a line for each way to restart."""
    print(f"{times} restarts each")
    ways = {
        "gunicorn, one copy, stopped and started": ("with_gunicorn.py", 1, Copies.restart, {}),
        "uvicorn, one copy, stopped and started": ("with_uvicorn.py", 1, Copies.restart, {}),
        "uvicorn, two copies, max_fails=0": ("with_uvicorn.py", 2, Copies.restart, {}),
        "uvicorn, two copies, nginx's default": ("with_uvicorn.py", 2, Copies.restart, {"options": ""}),
        "uvicorn, two copies, max_fails=0, POST": ("with_uvicorn.py", 2, Copies.restart, {"method": "POST"}),
        "gunicorn, SIGHUP": ("with_gunicorn.py", 1, lambda copies: copies.signal(signal.SIGHUP), {}),
        "upgrade.py, SIGUSR2": ("upgrade.py", 1, lambda copies: copies.signal(signal.SIGUSR2), {}),
    }
    for way, (example, count, restart, options) in ways.items():
        clients = measured(example, count, restart, times, **options)
        asked, lost = sum(clients.answers.values()), sum(clients.answers.values()) - clients.answers[200]
        others = dict(clients.answers.items() - {(200, clients.answers[200])})
        print(f"{way}: {lost} of {asked} requests lost, {1000 * clients.pause:.0f} ms without an answer, {others}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if sys.argv[1:] else 4)
