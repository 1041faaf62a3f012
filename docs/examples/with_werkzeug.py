"""Serve a Flask application with werkzeug on a Unix-domain socket that has one owner: with_werkzeug.py PATH."""

import os
import signal
import sys

import flask
from werkzeug.serving import make_server

import unixsock

app = flask.Flask(__name__)


@app.get("/")
def hello() -> flask.Response:
    """The application."""
    return flask.Response(f"Hello from pid {os.getpid()}\n", content_type="text/plain")


def main(path: str) -> None:
    """Exit status 0 after SIGTERM or Ctrl-C, 1 when the path cannot be had."""
    try:
        sock, guard = unixsock.bind_exclusive(path, mode=0o660)
    except (OSError, ValueError) as error:
        sys.exit(f"with_werkzeug.py: {error}")
    with guard:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit())  # werkzeug leaves it alone
        # app.run() takes no socket. This server makes a duplicate of it and closes that; the guard closes ours.
        server = make_server(f"unix://{guard.address}", 0, app, threaded=True, fd=sock.fileno())
        print(f"pid {os.getpid()} listens at {guard.address}", flush=True)
        server.serve_forever()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]) if sys.argv[1:] else __doc__)
