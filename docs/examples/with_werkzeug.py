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
    """Answer every request with the pid of the server; this is the application."""
    return flask.Response(f"Hello from pid {os.getpid()}\n", content_type="text/plain")


def main(path: str) -> None:
    """Exit with status 0 after SIGTERM or Ctrl-C, with 75 if the path is taken, and with 1 after any other error."""
    try:
        sock, guard = unixsock.bind_exclusive(path, mode=0o660, timeout=5)
    except (OSError, ValueError) as error:
        print(f"with_werkzeug.py: {error}", file=sys.stderr)
        sys.exit(os.EX_TEMPFAIL if isinstance(error, unixsock.AddressInUseError) else 1)
    with guard:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit())  # werkzeug does not handle it
        # app.run() takes no socket. This server duplicates it and closes the duplicate, and the guard closes ours.
        server = make_server(f"unix://{guard.address}", 0, app, threaded=True, fd=sock.fileno())
        print(f"pid {os.getpid()} listens at {guard.address}", flush=True)
        server.serve_forever()


if __name__ == "__main__":
    if not sys.argv[1:]:
        sys.exit(__doc__)
    main(sys.argv[1])
