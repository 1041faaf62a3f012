"""The system calls that docs/comparison.md counts are those that are made."""

import re
import socket
from pathlib import Path

import pytest

import unixsock
from system_calls import intercepted

PAGE = (Path(__file__).parents[2] / "docs" / "comparison.md").read_text(encoding="utf-8")
COUNTED = dict(re.findall(r"^\| (.*) \| \d+ \| `(.*)` \|$", PAGE, re.MULTILINE))

# What Linux calls them.
KERNELS = {"connect_ex": "connect", "settimeout": "ioctl"}


def calls_of(function, *arguments):
    """The names of the system calls, and what `function` returned."""
    names = []

    def hook(call):
        name = call.name.rpartition(".")[2]
        names.append(KERNELS.get(name, name))
        return call.run()

    with intercepted(hook):
        result = function(*arguments)
    return " ".join(names), result


@pytest.mark.parametrize("row", COUNTED)
def test_the_number_of_a_row_is_that_of_its_calls(row):
    assert f"| {row} | {len(COUNTED[row].split())} |" in PAGE


def test_a_start_and_a_close_make_the_calls_that_are_listed(path):
    unixsock.bind_exclusive(path)[1].close()  # leaves the lock file
    fresh, (_, guard) = calls_of(unixsock.bind_exclusive, path)
    close, _ = calls_of(guard.close)
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(path)
    stale, (_, guard) = calls_of(unixsock.bind_exclusive, path)
    guard.close()
    assert {"bind, nothing there": fresh, "bind on a stale name": stale, "close": close} == COUNTED
