"""The system calls that docs/protocol.md counts are those that are made."""

import re
import socket

import unixsock
from markdown import block, read
from system_calls import intercepted

# "close  18  close close open ...", the next lines indented.
TABLE = block(read("docs/protocol.md"), "bind, nothing there")
COUNTED = re.findall(r"^(\w.*?)  +(\d+)  (.*(?:\n  .*)*)$", TABLE, re.MULTILINE)

# What Linux calls them.
KERNELS = {"connect_ex": "connect", "setblocking": "ioctl", "settimeout": "ioctl"}


def calls_of(function, *arguments):
    """The names of the system calls, and what `function` returned."""
    names = []

    def hook(call):
        name = call.name.rpartition(".")[2]
        names.append(KERNELS.get(name, name))
        if call.name == "os.open":
            names.append("fstat")  # CPython's, when it makes an io.FileIO of the descriptor
        return call.run()

    with intercepted(hook):
        result = function(*arguments)
    return names, result


def test_bind_and_close_make_the_calls_that_are_listed(path):
    unixsock.bind_exclusive(path)[1].close()  # leaves the lock file
    fresh, (_, guard) = calls_of(unixsock.bind_exclusive, path)
    close, _ = calls_of(guard.close)
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(path)
    stale, (_, guard) = calls_of(unixsock.bind_exclusive, path)
    guard.close()
    made = {"bind, nothing there": fresh, "bind on a stale path": stale, "close": close}
    assert made == {row: calls.split() for row, _, calls in COUNTED}
    assert {row: len(calls) for row, calls in made.items()} == {row: int(count) for row, count, _ in COUNTED}
