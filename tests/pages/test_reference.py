"""docs/reference.md against the code: names and signatures; each error and message of its tables is met."""

import contextlib
import copy
import errno
import inspect
import os
import pickle
import re
import socket
import sys
from types import FunctionType

import pytest

import unixsock
from children import Child
from markdown import blocks, read
from observed import on_linux

PAGE = read("docs/reference.md")

# What stands between a heading and the next one, by the heading.
_, *PARTS = re.split(r"^#+ (.*)\n", PAGE, flags=re.MULTILINE)
SECTIONS = dict(zip(PARTS[::2], PARTS[1::2]))

FUNCTIONS = [unixsock.bind_exclusive, unixsock.bind_abstract]
MEMBERS = {name for name in vars(unixsock.Guard) if not name.startswith("_")} | {"__enter__", "__exit__"}


def cells(heading):
    """The section's table, without its head."""
    lines = [line for line in SECTIONS[heading].splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines[2:]]


def rows(heading):
    """The same; a cell that is code is taken out of its backticks."""
    return [[re.sub(r"^`([^`]*)`$", r"\1", cell).replace(r"\|", "|") for cell in row] for row in cells(heading)]


def shown(name):
    """What the section's code defines as `name`."""
    [code] = blocks(SECTIONS[name], "python")
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
    assert [name for name, *_ in rows("bind_exclusive")] == list(signature(unixsock.bind_exclusive).parameters)


def test_each_member_of_a_guard_has_its_row():
    named = {name.partition("(")[0] for name, _ in rows("Guard")}
    assert named == {name for name in MEMBERS if not name.startswith("_")} | {"with guard:"}


# What makes bind_exclusive(path, **options) meet each row: by what the row says is the case, all the ways to it. Some
# need another kernel, filesystem or user, and get its answer. `code` is each errno of the row.
CAUSES = {
    "the path is taken": ["other = unixsock.bind_exclusive(path)", "server = bound(path)"],
    "what stands at the path is not a socket; it is left alone": [
        "open(path, 'x').close()",
        "os.mkdir(path)",
        "os.mkfifo(path)",
        "os.symlink('elsewhere', path)",
    ],
    "the directory is missing": ["path = os.path.dirname(path) + '/missing/a.sock'"],
    "`mode` or `group` needs `/proc`, which is missing": [
        "os.chmod = answer(code); options = {'mode': 0o777}",
        "os.chown = answer(code); options = {'mode': 0o660, 'group': os.getegid()}",
    ],
    "a part of the directory's path is a file": ["open(path, 'x').close(); path += '/a.sock'"],
    "symbolic links in the directory's path form a loop": ["os.symlink(path, path); path += '/a.sock'"],
    "the path is too long": ["path = path.ljust(108, 'x')"],
    "a directory on the way may not be searched": ["os.mkdir(path, 0); path += '/a.sock'"],
    "you may not write to the directory": [
        "os.mkdir(path, 0o500); path += '/a.sock'",
        "os.mkdir(path); path += '/a.sock'; open(path + '.lock', 'x').close(); os.chmod(os.path.dirname(path), 0o500)",
    ],
    "another user owns the lock file": ["os.close(os.open(path + '.lock', os.O_CREAT, 0)); os.geteuid = lambda: -2"],
    "the lock file's bits keep you out": ["os.close(os.open(path + '.lock', os.O_CREAT, 0))"],
    "you may not write to the socket file, so the call cannot tell whether it is stale": [
        "server = bound(path); os.chmod(path, 0o500)",
        "stale(path); os.chmod(path, 0o500)",
    ],
    "the stale socket file is another user's, in a sticky directory": [
        "os.mkdir(path); os.chmod(path, 0o1777); path += '/a.sock'; stale(path); os.rename = answer(code)"
    ],
    "you are neither a member of `group` nor root": [
        "options = {'mode': 0o660, 'group': max([os.getegid(), *os.getgroups()]) + 1}"
    ],
    "`mode` or `group` was set without effect": [
        "os.chmod = ignored; options = {'mode': 0o777}",
        "os.chown = ignored; options = {'mode': 0o660, 'group': os.getegid() + 1}",
    ],
    "the user namespace does not map `group`": ["os.chown = answer(code); options = {'mode': 0o660, 'group': 1}"],
    "the system refuses to make a socket here": ["socket.socket.bind = answer(code)", "socket.socket = answer(code)"],
    "the system cannot make a socket here": ["socket.socket.bind = answer(code)", "socket.socket = answer(code)"],
    "the filesystem has no locks, or no more of them": ["fcntl.flock = answer(code)"],
    "the filesystem is read-only": ["os.open = answer(code)"],
    "the lock file is a symbolic link, a socket, a FIFO or a device": [
        "{errno.ELOOP: link, errno.ENXIO: stale, errno.EINVAL: os.mkfifo}[code](path + '.lock')"
    ],
    "the lock file is a directory": ["os.mkdir(path + '.lock')"],
    "a program removed or replaced the lock file a hundred times during the call": [
        "os.path.samestat = lambda *files: False"
    ],
    "the stale socket file is a mount point": ["stale(path); os.unlink = answer(code)"],
}

MET = """
import errno, fcntl
def answer(code):
    def fail(*arguments, **options):
        raise OSError(code, os.strerror(code), *[each for each in arguments[:1] if isinstance(each, str)])
    return fail
def ignored(*arguments, **options):
    pass
def bound(path):
    server = socket.socket(socket.AF_UNIX)
    server.bind(path)
    return server
def stale(path):
    bound(path).close()
def link(path):
    os.symlink('elsewhere', path)
options = {}
os.umask(0o022)
exec(cause)
try:
    unixsock.bind_exclusive(path, **options)
except OSError as error:
    said = type(error).__name__, error.errno, error.filename, error.strerror
_ = [*said, path]
"""


def errors(heading):
    """Each errno with the rows that it has."""
    return [
        pytest.param(code, row, id=f"{code}-{row[2]}")
        for row in cells(heading)
        for code in [int(name) if name.isdigit() else getattr(errno, name) for name in re.findall(r"\w+", row[0])]
    ]


def assert_adds(message, code, cell):
    """Whether the message has what its row says is added to the system's words; there, … stands for anything."""
    for words in re.findall(r"`([^`]+)`", cell):
        assert re.search(re.escape(words).replace("…", ".+"), message)
    if "owner and bits" in cell:
        assert re.search(r"belongs to uid \d+ and has the bits 0o\d+", message)
    assert message.startswith(os.strerror(code)) is not cell.endswith("without the system's words")
    assert (message == os.strerror(code)) is (cell == "nothing")


def test_each_case_of_an_error_is_tried():
    assert [case for _, _, case, *_ in cells("Errors of bind_exclusive")] == [*CAUSES]


@on_linux
@pytest.mark.parametrize(("code", "row"), errors("Errors of bind_exclusive"))
def test_an_error_of_a_path_is_met_as_its_row_says(directory, user, code, row):
    _, raised, case, about, adds, _ = row
    directory.chmod(0o755)
    for number, cause in enumerate(CAUSES[case]):
        place = directory / str(number)
        place.mkdir()
        place.chmod(0o777)
        with user.fork() as child:
            answer = child.do(MET, path=str(place / "a.sock"), cause=f"code = {code}; {cause}")
        kind, *said, message, path = answer
        assert (f"`{kind}`", said[0]) == (raised, code)
        assert said[1] in [path + ".lock" if each == "lock file" else path for each in about.split(", or ")]
        assert_adds(message, code, adds)
        if os.path.isdir(os.path.dirname(path)):
            os.chmod(os.path.dirname(path), 0o700)  # so that it can be removed


@pytest.mark.parametrize(("code", "row"), errors("Errors of bind_abstract"))
def test_an_error_of_an_abstract_name_is_met_as_its_row_says(code, row, monkeypatch):
    _, raised, _, about, adds, _ = row
    given = "unixsock-reference-" + (100 * "x" if code == errno.ENAMETOOLONG else str(os.getpid()))
    if code not in (errno.EOPNOTSUPP, errno.ENAMETOOLONG) and sys.platform != "linux":
        pytest.skip("no abstract names here")

    def refuse(*arguments):
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patch, pytest.raises(OSError, match=r".") as caught:
        if code == errno.EOPNOTSUPP:
            patch.setattr(sys, "platform", "darwin")
        elif code in (errno.EPERM, errno.EACCES):
            patch.setattr(socket, "socket", refuse)
        with unixsock.bind_abstract(given)[1]:
            unixsock.bind_abstract(given)
    assert (f"`{type(caught.value).__name__}`", caught.value.errno) == (raised, code)
    assert (about, caught.value.filename) == ("name", given)
    assert_adds(caught.value.strerror, code, adds)


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


BIND = "sock, guard = unixsock.bind_exclusive(path)"
ABSTRACT = "sock, guard = unixsock.bind_abstract(path)"
ASK = """
try:
    raise AssertionError(bind(path))
except unixsock.AddressInUseError as error:
    _ = error.strerror, error.owner_pid
"""

# How the cause of each message comes about: what the process that the message is about does, and whether it exits
# afterwards and leaves a child; and what the refused process does first.
REFUSALS = {
    "that process took the lock": (BIND, False, ""),
    "this process took the lock": ("", False, BIND),
    "children of that process still hold the lock": (BIND, True, ""),
    "the lock is held, but the system does not report who took it": (BIND, False, "os.readlink = lambda path: ''"),
    "one of those named": ("sock = socket.socket(socket.AF_UNIX); sock.bind(path)", False, ""),
    "a socket of the same type has the name": (ABSTRACT, False, ""),
}


def test_each_cause_of_a_refusal_is_tried():
    assert [cause for _, cause, _ in cells("Messages of AddressInUseError")] == [*REFUSALS]


@on_linux
@pytest.mark.parametrize(
    ("message", "cause", "more"),
    [
        pytest.param(message, cause, more, id=cause + more)
        for message, cause, _ in rows("Messages of AddressInUseError")
        for more in ["", *re.findall(r"`(; no socket file [^`]+)`", PAGE)]
        if not more or "taken by" in message
    ],
)
def test_a_refusal_says_what_its_row_says(path, message, cause, more):
    does, exits, first = REFUSALS[cause]
    with contextlib.ExitStack() as stack:
        owner, other = stack.enter_context(Child()), stack.enter_context(Child())
        owner.do(does, path=path)
        other.do(first, path=path)
        if exits:
            stack.enter_context(owner.fork())
            owner.kill()
        if more:
            os.unlink(path)
        pid = owner.pid if does else other.pid
        strerror, told = other.do(f"bind = unixsock.{'bind_abstract' if does is ABSTRACT else 'bind_exclusive'}\n{ASK}")
    assert strerror == f"{os.strerror(errno.EADDRINUSE)} ({message.replace('4242', str(pid))}{more})"
    assert told == (pid if "4242" in message else None)
