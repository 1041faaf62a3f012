"""docs/reference.md against the code: names, signatures; each wrong value and each error of its tables is tried."""

import contextlib
import copy
import errno
import inspect
import math
import os
import pathlib
import pickle
import re
import socket
import sys
from pathlib import Path
from types import FunctionType

import pytest

import unixsock
from observed import on_linux

PAGE = (Path(__file__).parents[2] / "docs" / "reference.md").read_text(encoding="utf-8")

# What stands between a heading and the next one, by the heading.
_, *PARTS = re.split(r"^#+ (.*)\n", PAGE, flags=re.MULTILINE)
SECTIONS = dict(zip(PARTS[::2], PARTS[1::2]))

FUNCTIONS = [unixsock.bind_exclusive, unixsock.bind_abstract]
MEMBERS = {name for name in vars(unixsock.Guard) if not name.startswith("_")} | {"__enter__", "__exit__"}


def rows(heading):
    """The cells of the section's table, without its head; what is code in them is taken out of its backticks."""
    lines = [line for line in SECTIONS[heading].splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines[2:]]
    return [[re.sub(r"^`([^`]*)`$", r"\1", cell).replace(r"\|", "|") for cell in row] for row in cells]


def shown(name):
    """What the section's code defines as `name`."""
    [code] = re.findall(r"^```python\n(.*?)^```$", SECTIONS[name], re.MULTILINE | re.DOTALL)
    names = {"os": os, "socket": socket}
    exec("from __future__ import annotations\n" + code, names)
    return names[name]


def signature(function):
    """As inspect has it, of a property's getter, too."""
    return inspect.signature(function.fget if isinstance(function, property) else function)


def test_every_public_name_has_its_heading():
    assert {heading for heading in SECTIONS if " " not in heading} == {"Reference", *unixsock.__all__}


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda function: function.__name__)
def test_a_functions_signature_is_the_one_that_is_shown(function):
    assert signature(shown(function.__name__)) == signature(function)


def test_the_classes_have_the_members_that_are_shown_and_no_other():
    stub = vars(shown("Guard"))
    assert {name for name, member in stub.items() if type(member) in (property, FunctionType)} == MEMBERS
    for name in MEMBERS:
        real = vars(unixsock.Guard)[name]
        assert type(stub[name]) is type(real)
        assert signature(stub[name]) == signature(real), name
    error = shown("AddressInUseError")
    assert error.__bases__ == unixsock.AddressInUseError.__bases__
    assert [*error.__annotations__] == [*vars(unixsock.AddressInUseError())]


def test_each_argument_of_a_path_has_its_row():
    assert [name for name, _ in rows("bind_exclusive")] == list(signature(unixsock.bind_exclusive).parameters)


WRONG = [
    pytest.param(function, value, raised, id=f"{function.__name__}-{value!a}")
    for function in FUNCTIONS
    for value, raised in rows(f"Wrong values for {function.__name__}")
]


@pytest.mark.parametrize(("function", "value", "raised"), WRONG)
def test_a_wrong_value_raises_what_its_row_says_and_nothing_stays(directory, monkeypatch, function, value, raised):
    monkeypatch.chdir(directory)
    address = {"path": "a.sock"} if function is unixsock.bind_exclusive else {"name": "unixsock-never-bound"}
    arguments = {**address, **eval(f"dict({value})", {"math": math, "pathlib": pathlib, "socket": socket})}
    with pytest.raises(eval(raised)) as caught:
        function(**arguments)
    assert getattr(caught.value, "errno", None) in (None, errno.ENAMETOOLONG)
    # listen(2) alone knows how long a backlog may be; the lock file was there by then.
    assert set(os.listdir(directory)) <= ({"a.sock.lock"} if raised == "OverflowError" else set())


# For each errno, what makes bind_exclusive(path, **options) meet it: each case of its row. Some need another kernel,
# filesystem or user, and get its answer.
CAUSES = {
    "EADDRINUSE": ["other = unixsock.bind_exclusive(path)", "server = bound(path)"],
    "EEXIST": ["open(path, 'x').close()", "os.mkdir(path)", "os.mkfifo(path)", "os.symlink('elsewhere', path)"],
    "ENOENT": ["path = os.path.dirname(path) + '/missing/a.sock'"],
    "ENOTDIR": ["open(path, 'x').close(); path += '/a.sock'"],
    "EACCES": ["os.close(os.open(path + '.lock', os.O_CREAT, 0))", "server = bound(path); os.chmod(path, 0)"],
    "EPERM": [
        "stale(path); os.rename = answer(errno.EPERM)",
        "os.chmod = lambda *files, **options: None; options = {'mode': 0o777}",
    ],
    "EROFS": ["os.open = answer(errno.EROFS)"],
    "ENOLCK": ["fcntl.flock = answer(errno.ENOLCK)"],
    "EOPNOTSUPP": ["fcntl.flock = answer(errno.EOPNOTSUPP)"],
    "ENOSYS": ["fcntl.flock = answer(errno.ENOSYS)"],
    "524": ["fcntl.flock = answer(524)"],
    "ELOOP": ["os.symlink('elsewhere', path + '.lock')", "os.symlink(path, path); path += '/a.sock'"],
    "EISDIR": ["os.mkdir(path + '.lock')"],
    "ENXIO": ["stale(path + '.lock')"],
    "EINVAL": ["os.mkfifo(path + '.lock')"],
    "EBUSY": ["os.path.samestat = lambda *files: False", "stale(path); os.unlink = answer(errno.EBUSY)"],
    "ENAMETOOLONG": ["path = path.ljust(108, 'x')"],
}

MET = """
import errno, fcntl
def answer(code):
    def fail(*arguments, **options):
        raise OSError(code, os.strerror(code))
    return fail
def bound(path):
    server = socket.socket(socket.AF_UNIX)
    server.bind(path)
    return server
def stale(path):
    bound(path).close()
options = {}
os.umask(0o022)
exec(cause)
try:
    unixsock.bind_exclusive(path, **options)
except OSError as error:
    said = type(error).__name__, errno.errorcode.get(error.errno, str(error.errno)), error.filename
_ = [*said, path]
"""


@on_linux
@pytest.mark.parametrize(
    ("row", "cause"),
    [
        pytest.param(row, cause, id=f"{row[0]}-{cause}")
        for row in rows("Errors of bind_exclusive")
        for cause in CAUSES[row[0]]
    ],
)
def test_an_error_of_a_path_is_met_as_its_row_says(directory, path, user, row, cause):
    name, raised, _, about = row
    directory.chmod(0o777)
    *said, filename, path = user.do(MET, path=path, cause=cause)
    assert said == [raised, "ENOTSUP" if name == "EOPNOTSUPP" else name]  # two names of one number
    assert filename in [{"the socket": path, "the lock file": path + ".lock"}[each] for each in about.split(" or ")]


@pytest.mark.parametrize("row", rows("Errors of bind_abstract"), ids=lambda row: row[0])
def test_an_error_of_an_abstract_name_is_met_as_its_row_says(row, monkeypatch):
    name, raised, _, about = row
    given = "unixsock-reference-" + (100 * "x" if name == "ENAMETOOLONG" else str(os.getpid()))
    with monkeypatch.context() as patch, pytest.raises(OSError, match=r".") as caught:
        if name == "EOPNOTSUPP":
            patch.setattr(sys, "platform", "darwin")
        elif name == "EADDRINUSE" and sys.platform != "linux":
            pytest.skip("no abstract names here")
        with unixsock.bind_abstract(given)[1]:
            unixsock.bind_abstract(given)
    assert (type(caught.value).__name__, caught.value.errno) == (raised, getattr(errno, name))
    assert (about, caught.value.filename) == ("the name", given)


@on_linux
@pytest.mark.parametrize(("state", "call", "raised"), rows("Errors of a guard"))
def test_an_error_of_a_guard_is_met_as_its_row_says(path, state, call, raised):
    if "abstract" in state:
        sock, guard = unixsock.bind_abstract(f"unixsock-reference-{os.getpid()}")
    else:
        sock, guard = unixsock.bind_exclusive(path)
    if state == "closed":
        guard.close()
    elif "descriptor" in state:
        os.close(sock.fileno())
    kind, _, name = raised.replace("`", "").partition(": ")
    with guard if state != "closed" else contextlib.nullcontext(), pytest.raises(eval(kind)) as caught:
        eval(call, {"copy": copy, "guard": guard, "pickle": pickle})
    assert getattr(caught.value, "errno", None) == getattr(errno, name or "", None)
