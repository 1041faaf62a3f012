"""docs/reference.md against the code: names, signatures, defaults; each wrong value and each error is tried."""

import errno
import inspect
import math
import os
import pathlib
import re
import socket
import sys
from pathlib import Path
from types import FunctionType

import pytest

import unixsock

PAGE = (Path(__file__).parents[2] / "docs" / "reference.md").read_text(encoding="utf-8")

# What stands between a heading and the next one, by the heading.
_, *PARTS = re.split(r"^#+ (.*)\n", PAGE, flags=re.MULTILINE)
SECTIONS = dict(zip(PARTS[::2], PARTS[1::2]))

FUNCTIONS = [unixsock.bind_exclusive, unixsock.bind_abstract]
MEMBERS = [name for name in vars(unixsock.Guard) if not name.startswith("_")]
CONTEXT = ["__enter__", "__exit__"]


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


def test_every_public_name_has_its_heading_and_nothing_else_has():
    assert PAGE.count("```python") == len(unixsock.__all__)  # each compared below
    members = [f"Guard.{name}" for name in MEMBERS] + ["AddressInUseError.owner_pid"]
    assert {heading for heading in SECTIONS if " " not in heading} == {"Reference", *unixsock.__all__, *members}


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda function: function.__name__)
def test_a_functions_signature_is_the_one_that_is_shown(function):
    assert signature(shown(function.__name__)) == signature(function)


def test_the_guard_has_the_members_that_are_shown_and_no_other():
    stub = vars(shown("Guard"))
    assert {name for name, member in stub.items() if type(member) in (property, FunctionType)} == {*MEMBERS, *CONTEXT}
    for name in [*MEMBERS, *CONTEXT]:
        real = vars(unixsock.Guard)[name]
        assert type(stub[name]) is type(real)
        assert signature(stub[name]) == signature(real), name


def test_the_error_has_the_base_and_the_attribute_that_are_shown():
    error = shown("AddressInUseError")
    assert error.__bases__ == unixsock.AddressInUseError.__bases__
    assert error.__annotations__ == unixsock.AddressInUseError.__annotations__


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda function: function.__name__)
def test_each_argument_has_its_row_with_its_default(function):
    table = {name: default for name, _, _, default, _ in rows(function.__name__)}
    expected = signature(function).parameters
    assert list(table) == list(expected)
    for name, default in table.items():
        if expected[name].default is inspect.Parameter.empty:
            assert default == "required"
        else:
            assert eval(default) == expected[name].default


WRONG = [
    pytest.param(function, value, raised, id=f"{function.__name__}-{value!a}")
    for function in FUNCTIONS
    for value, raised in rows(f"Wrong values for {function.__name__}")
]


@pytest.mark.parametrize(("function", "value", "raised"), WRONG)
def test_a_wrong_value_raises_what_its_row_says_before_anything_is_created(
    directory, monkeypatch, function, value, raised
):
    monkeypatch.chdir(directory)
    address = {"path": "a.sock"} if function is unixsock.bind_exclusive else {"name": "unixsock-never-bound"}
    arguments = {**address, **eval(f"dict({value})", {"math": math, "pathlib": pathlib, "socket": socket})}
    with pytest.raises(eval(raised)) as caught:
        function(**arguments)
    assert getattr(caught.value, "errno", None) in (None, errno.ENAMETOOLONG)
    assert os.listdir(directory) == []


# For each errno, what makes bind_exclusive(path) meet it. Some need another kernel or filesystem, and get its answer.
CAUSES = {
    "EADDRINUSE": "other = unixsock.bind_exclusive(path)",
    "EEXIST": "open(path, 'x').close()",
    "ENOENT": "path = os.path.dirname(path) + '/missing/a.sock'",
    "ENOTDIR": "open(path, 'x').close(); path += '/a.sock'",
    "EACCES": "os.close(os.open(path + '.lock', os.O_CREAT, 0))",
    "EROFS": "os.open = answer(errno.EROFS)",
    "ENOLCK": "fcntl.flock = answer(errno.ENOLCK)",
    "EOPNOTSUPP": "fcntl.flock = answer(errno.EOPNOTSUPP)",
    "ELOOP": "os.symlink('elsewhere', path + '.lock')",
    "EISDIR": "os.mkdir(path + '.lock')",
    "ENXIO": "socket.socket(socket.AF_UNIX).bind(path + '.lock')",
    "EINVAL": "os.mkfifo(path + '.lock')",
    "EBUSY": "os.path.samestat = lambda *files: False",
    "ENAMETOOLONG": "path = path.ljust(108, 'x')",
}

MET = """
import errno, fcntl, gc
def answer(code):
    def fail(*arguments, **options):
        raise OSError(code, os.strerror(code))
    return fail
exec(cause)
gc.collect()  # PyPy closes what nobody closed
try:
    unixsock.bind_exclusive(path)
except OSError as error:
    said = type(error).__name__, errno.errorcode[error.errno], error.filename
_ = [*said, path]
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the page lists the answers of Linux")
@pytest.mark.parametrize("row", rows("Errors of bind_exclusive"), ids=lambda row: row[0])
def test_an_error_of_a_path_is_met_as_its_row_says(directory, path, user, row):
    name, raised, _, about = row
    directory.chmod(0o777)
    *said, filename, path = user.do(MET, path=path, cause=CAUSES[name])
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


@pytest.mark.parametrize("closed", ["the socket", "the lock file"])
def test_the_error_of_close_is_met_as_its_row_says(path, closed):
    [[name, raised, _, about]] = rows("Guard.close")
    sock, guard = unixsock.bind_exclusive(path)
    os.close(sock.fileno() if closed == "the socket" else guard.fileno())
    with pytest.raises(OSError, match=r"a\.sock") as caught:
        guard.close()
    assert (type(caught.value).__name__, caught.value.errno) == (raised, getattr(errno, name))
    assert closed in about.split(" or ")


@pytest.mark.parametrize(
    ("function", "heading"),
    [
        (unixsock.bind_exclusive, "Errors of bind_exclusive"),
        (unixsock.bind_abstract, "Errors of bind_abstract"),
        (unixsock.Guard.close, "Guard.close"),
    ],
    ids=["bind_exclusive", "bind_abstract", "close"],
)
def test_the_errnos_of_a_table_are_those_of_the_docstring(function, heading):
    raises = re.search(r"^Raises:\n((?:    .*\n|\n)*)", inspect.cleandoc(function.__doc__) + "\n", re.MULTILINE)[1]
    documented = re.findall(r"\b(E[A-Z]+)\b", raises)
    assert documented
    assert {name for name, *_ in rows(heading)} == set(documented)
