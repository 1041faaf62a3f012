"""Bind PATH, then become COMMAND, which is a server that takes a listening descriptor on its command line.

    exec_server.py /run/app/app.sock gunicorn app:wsgi -b fd://{fd} --no-control-socket
    exec_server.py /run/app/app.sock hypercorn app:app --bind fd://{fd} --workers 0
    exec_server.py /run/app/app.sock uvicorn app:app --fd {fd}

uvicorn lets clients connect while it drains, and then cuts them off. Where that counts, use a program like
with_uvicorn.py.

If COMMAND has no {fd} in it, it gets the socket by systemd's protocol: as descriptor 3, with LISTEN_FDS and LISTEN_PID
set. The socket file has the mode 0660.

The server inherits the socket and the lock, and holds both until it exits. It has no guard, so it can leave a stale
socket file, which the next server to start removes.

If PATH is taken, the exit status is 75 (EX_TEMPFAIL: try again later). It is 1 after any other error, and 2 if the
arguments are wrong. Otherwise it is that of COMMAND.
"""

import argparse
import os
import signal
import socket
import sys

import unixsock

FIRST = 3  # SD_LISTEN_FDS_START of sd_listen_fds(3)


def main() -> None:
    """Become the command. This never returns: without an exec, it ends in SystemExit."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--timeout", type=float, default=5.0, help="seconds to wait until the path is free (5)")
    parser.add_argument("path", metavar="PATH", help="where the socket goes")
    parser.add_argument("command", metavar="COMMAND", nargs=argparse.REMAINDER, help="the server and its arguments")
    options = parser.parse_args()
    if not options.command:
        parser.error("COMMAND is missing")
    by_number = any("{fd}" in argument for argument in options.command)
    if not by_number:
        os.dup2(os.open(os.devnull, os.O_RDONLY), FIRST)  # or the lock could get this number, and lose it below

    # The kernel drops a SIGTERM for process 1 of a container if there is no handler. exec takes the handler away again.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    try:
        # gunicorn, for one, keeps the queue of a socket that listens, and Python's default for it is 128 at most. So is
        # socket.SOMAXCONN in the headers of some systems.
        sock, guard = unixsock.bind_exclusive(options.path, mode=0o660, backlog=2048, timeout=options.timeout)
        # If exec fails, the with statement closes both. After it, they stay open until the server exits.
        with guard, sock.dup() if by_number else socket.socket(fileno=os.dup2(sock.fileno(), FIRST)) as listener:
            listener.set_inheritable(True)
            os.set_inheritable(guard.fileno(), True)  # noqa: FBT003 - it has no name
            if not by_number:
                # Not with {fd}: gunicorn would take descriptor 3 twice, close it, and exit with EBADF.
                os.environ.update(LISTEN_FDS="1", LISTEN_PID=str(os.getpid()))
            command = [argument.replace("{fd}", str(listener.fileno())) for argument in options.command]
            os.execvp(command[0], command)  # noqa: S606 - no shell is wanted
    except (OSError, ValueError) as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        sys.exit(os.EX_TEMPFAIL if isinstance(error, unixsock.AddressInUseError) else 1)


if __name__ == "__main__":
    main()
