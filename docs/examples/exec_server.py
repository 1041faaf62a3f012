"""Bind PATH, then become COMMAND, a server that takes a listening descriptor on its command line.

    exec_server.py /run/app/app.sock gunicorn app:wsgi -b fd://{fd} --no-control-socket
    exec_server.py /run/app/app.sock hypercorn app:app --bind fd://{fd} --workers 0
    exec_server.py /run/app/app.sock uvicorn app:app --fd {fd}

uvicorn lets clients connect while it drains, and then cuts them off. Where that counts, use a program like
with_uvicorn.py.

A COMMAND without {fd} gets the socket by systemd's protocol: descriptor 3, LISTEN_FDS and LISTEN_PID. The mode is 0660.
The server inherits socket and lock and holds both until its end. It has no guard: a socket file that it leaves is
cleared by the next start.

Exit status, unless COMMAND's own: 75 (EX_TEMPFAIL, try again) when PATH is in use, 1 for other errors, 2 for the usage.
"""

import argparse
import os
import signal
import socket
import sys

import unixsock

FIRST = 3  # SD_LISTEN_FDS_START of sd_listen_fds(3)


def main() -> None:
    """Never return: exec, or SystemExit."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--timeout", type=float, default=5.0, help="seconds to wait for the owner to end (5)")
    parser.add_argument("path", metavar="PATH", help="where the socket goes")
    parser.add_argument("command", metavar="COMMAND", nargs=argparse.REMAINDER, help="the server, and its arguments")
    options = parser.parse_args()
    if not options.command:
        parser.error("COMMAND is missing")
    by_number = any("{fd}" in argument for argument in options.command)
    if not by_number:
        os.dup2(os.open(os.devnull, os.O_RDONLY), FIRST)  # else the lock could get this number, and lose it below

    # Process 1 of a container ignores a SIGTERM that has no handler. exec sets it back.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    try:
        # gunicorn, for one, listens only if the socket does not listen yet, and Python's default is 128 at most.
        # (Not socket.SOMAXCONN, which some systems' headers define as 128.)
        sock, guard = unixsock.bind_exclusive(options.path, mode=0o660, backlog=2048, timeout=options.timeout)
        # After exec nothing closes these but the end of the server. Before it, an error closes them.
        with guard, sock.dup() if by_number else socket.socket(fileno=os.dup2(sock.fileno(), FIRST)) as listener:
            listener.set_inheritable(True)
            os.set_inheritable(guard.fileno(), True)  # noqa: FBT003 - it has no name
            if not by_number:
                # Never with {fd}: gunicorn would take descriptor 3 twice, close it, and end with EBADF.
                os.environ.update(LISTEN_FDS="1", LISTEN_PID=str(os.getpid()))
            command = [argument.replace("{fd}", str(listener.fileno())) for argument in options.command]
            os.execvp(command[0], command)  # noqa: S606 - no shell is wanted
    except unixsock.AddressInUseError as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        sys.exit(os.EX_TEMPFAIL)
    except (OSError, ValueError) as error:
        sys.exit(f"{parser.prog}: {error}")


if __name__ == "__main__":
    main()
