"""docs/reference.md against the code: names, signatures, and each wrong value, error and message of its tables."""

import copy
import errno
import inspect
import os
import pickle
import re
import socket
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


def rows(heading):
    """The section's table, without its head; a cell that is code is taken out of its backticks."""
    lines = [line for line in SECTIONS[heading].splitlines() if line.startswith("|")]
    cells = [[cell.strip().replace(r"\|", "|") for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines[2:]]
    return [[re.sub(r"^`([^`]*)`$", r"\1", cell) for cell in row] for row in cells]


def shown(name):
    """What the section's code defines as `name`."""
    [code] = [code for code in blocks(SECTIONS[name], "python") if re.match(rf"(def|class) {name}\b", code)]
    names = {"os": os, "socket": socket}
    exec("from __future__ import annotations\n" + code, names)
    return names[name]


def signature(function):
    """As inspect has it, of a property's getter, too."""
    return inspect.signature(function.fget if isinstance(function, property) else function)


def test_the_example_serves_and_then_lets_go_of_the_path(path):
    [code] = blocks(SECTIONS["Reference"], "python")
    served = []
    exec(code.replace("/run/app/app.sock", path), {"serve": lambda sock: served.append(sock.getsockname())})
    assert (served, os.path.exists(path)) == ([path], False)


def test_every_public_name_has_its_heading_a_function_its_signature_and_an_argument_its_row():
    assert {heading for heading in SECTIONS if " " not in heading} == {"Reference", *unixsock.__all__}
    for function in FUNCTIONS:
        assert signature(shown(function.__name__)) == signature(function)
    assert [name for name, *_ in rows("bind_exclusive")] == [*signature(unixsock.bind_exclusive).parameters]


def test_the_classes_have_the_members_that_are_shown_and_no_other():
    stub = vars(shown("Guard"))
    assert {name for name, member in stub.items() if type(member) in (property, FunctionType)} == MEMBERS
    for name in MEMBERS:
        real = vars(unixsock.Guard)[name]
        assert type(stub[name]) is type(real)
        assert signature(stub[name]) == signature(real), name
    named = {name.partition("(")[0] for name, _ in rows("Guard")}
    assert named == {name for name in MEMBERS if not name.startswith("_")} | {"with guard:"}
    error = shown("AddressInUseError")
    assert error.__bases__ == unixsock.AddressInUseError.__bases__
    assert [*error.__annotations__] == [*vars(unixsock.AddressInUseError())]


@on_linux
@pytest.mark.parametrize(("value", "raised", "why"), rows("Wrong values for bind_exclusive"))
def test_a_wrong_value_raises_what_its_row_says(path, value, raised, why):
    with pytest.raises(eval(raised)):
        unixsock.bind_exclusive(**{"path": path, **eval(f"dict({value})", {"socket": socket})})


# What makes bind(path, **options) meet each cause. If that takes another kernel, filesystem or user, a call gets its
# answer, each errno of the row. Any path can be an abstract name.
CAUSES = {
    "a parent directory cannot be searched": "os.mkdir(path, 0o600); path += '/a.sock'",
    "you cannot write to the directory": "os.mkdir(path, 0o500); path += '/a.sock'",
    "you cannot write to the directory, but the lock file exists": (
        "os.mkdir(path); open(path + '/a.sock.lock', 'x').close(); os.chmod(path, 0o500); path += '/a.sock'"
    ),
    "another user owns the lock file": "os.close(os.open(path + '.lock', os.O_CREAT, 0)); os.geteuid = lambda: -2",
    "the bits of your lock file deny access": "os.close(os.open(path + '.lock', os.O_CREAT, 0))",
    "you cannot write to the socket file, so the call cannot tell whether it is stale": "stale(path, 0o500)",
    "the path is taken": "first = bind(path)",
    "the system has no Unix-domain sockets, or a sandbox hides them": "stale(path); socket.socket = answer",
    "a program removed or replaced the lock file a hundred times during the call": "os.path.samestat = ignored",
    "the stale socket file is a mount point": "stale(path); os.unlink = answer",
    "a file that is not a socket is at the path; the call leaves it alone": "os.mkdir(path)",
    "the lock file is a FIFO": "os.mkfifo(path + '.lock')",
    "the user namespace does not map `group`": "os.chown = answer; options = {'mode': 0o660, 'group': 1}",
    "the system cannot make a socket here": "socket.socket.bind = answer",
    "the lock file is a directory": "os.mkdir(path + '.lock')",
    "symbolic links in the directory's path form a loop": "os.symlink(path, path); path += '/a.sock'",
    "the lock file is a symbolic link": "os.symlink('elsewhere', path + '.lock')",
    "the path is too long": "path = path.ljust(108, 'x')",
    "the directory is missing": "path += '/missing/a.sock'",
    "`mode` or `group` needs `/proc`, which is missing": "os.chmod = answer; options = {'mode': 0o777}",
    "the filesystem does not support locks, or has run out of them": "fcntl.flock = answer",
    "a part of the directory's path is a file": "open(path, 'x').close(); path += '/a.sock'",
    "the lock file is a socket": "stale(path + '.lock')",
    "the stale socket file belongs to another user, and the directory is sticky": "stale(path); os.rename = answer",
    "you are neither a member of `group` nor root": "options = {'mode': 0o660, 'group': other}",
    "`mode` or `group` was set without effect": "os.chmod = ignored; options = {'mode': 0o777}",
    "the filesystem is read-only": "os.open = answer",
    "the system allows no such socket": "socket.socket = answer",
    "the name is taken": "first = bind(path)",
    "the name is too long": "path = path.ljust(108, 'x')",
    "this is not Linux": "sys.platform = 'darwin'",
}

MET = """
import errno, fcntl
def answer(*arguments, **options):
    raise OSError(number, os.strerror(number), *[each for each in arguments[:1] if isinstance(each, str)])
ignored = lambda *arguments, **options: None
def stale(path, mode=0o700):
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(path)
    os.chmod(path, mode)
options, other = {}, max([os.getegid(), *os.getgroups()]) + 1
bind, path = getattr(unixsock, function), place + "/a.sock"
os.umask(0o022); os.mkdir(place); os.chmod(place, 0o1777)
exec(does)
try:
    bind(path, **options)
except OSError as error:
    _ = path, type(error).__name__, error.errno, error.filename, error.strerror
"""

# Each errno of each row, with the function that fails and the rest of the row; and the class that an errno has.
ERRORS = [
    (function.__name__, int(name) if name.isdigit() else getattr(errno, name), *row[1:4])
    for function in FUNCTIONS
    for row in rows(f"Errors from {function.__name__}")
    for name in re.findall(r"\w+", row[0])
]
CLASSES = {name: kind for kind, names in re.findall(r"`(\w+)` \((E[A-Z, ]+)\)", PAGE) for name in names.split(", ")}


def test_the_causes_are_those_that_are_met_and_sorted_by_errno():
    assert {cause for _, _, cause, *_ in ERRORS} == {*CAUSES}
    for function in FUNCTIONS:
        cells = [row[0].strip("`") for row in rows(f"Errors from {function.__name__}")]
        assert cells == sorted(cells, key=lambda cell: cell.partition("`")[0])


@on_linux
@pytest.mark.parametrize(("function", "code", "cause", "about", "adds"), ERRORS)
def test_an_error_is_met_as_its_row_says(directory, user, function, code, cause, about, adds):
    directory.chmod(0o777)
    variables = {"function": function, "place": f"{directory}/place", "number": code, "does": CAUSES[cause]}
    path, kind, *said, message = user.do(MET, **variables)
    assert (kind, said[0]) == (CLASSES.get(errno.errorcode.get(code), "OSError"), code)
    assert said[1] == (path + ".lock" if about == "lock file" else path)
    # In what is added to the system's words, … stands for anything.
    words = re.findall(r"`([^`]+)`", adds) or [adds] * (not re.search(r"^nothing$|owner and bits|\]\(", adds))
    words += ["belongs to uid … and has the bits 0o…"] * ("owner and bits" in adds)
    assert all(re.search(re.escape(each).replace("…", ".+"), message) for each in words)
    assert message.startswith(os.strerror(code)) is not adds.endswith("without the system's words")
    assert (message == os.strerror(code)) is (adds == "nothing")


@on_linux
@pytest.mark.parametrize(("state", "call", "raised"), rows("Errors from a guard"))
def test_an_error_of_a_guard_is_met_as_its_row_says(path, state, call, raised):
    sock, guard = (unixsock.bind_abstract if "abstract" in state else unixsock.bind_exclusive)(path)
    if "is closed" in state:
        guard.close()
    elif "descriptor" in state:
        os.close(sock.fileno())
    kind, _, code = raised.replace("`", "").partition(" with ")
    with pytest.raises(eval(kind)) as caught:
        eval(call, {"copy": copy, "guard": guard, "pickle": pickle})
    assert getattr(caught.value, "errno", None) == getattr(errno, code or "", None)
    guard.close()


BIND = "sock, guard = getattr(unixsock, function)(path)"
# For each cause, what the process does that the message is about, and what the refused process does first.
REFUSALS = {
    "that process took the lock": (BIND, ""),
    "this process took the lock": ("", BIND),
    "children of that process still hold the lock": (BIND, ""),
    "the lock is held, but the system does not report who took it": (BIND, "os.readlink = lambda path: ''"),
    "often your own server: it dropped or closed the guard, and a thread or a worker still has the socket": (
        "sock = socket.socket(socket.AF_UNIX); sock.bind(path)",
        "",
    ),
    "a socket of the same type has the name": (BIND, ""),
}
[MISSING] = re.findall(r"`(; no socket file [^`]+)`", PAGE)
MESSAGES = [
    (message, cause, more)
    for message, cause, _ in rows("Messages of AddressInUseError")
    for more in ["", MISSING][: 1 + ("taken by" in message)]
]


@on_linux
@pytest.mark.parametrize(("message", "cause", "more"), MESSAGES)
def test_a_refusal_says_what_its_row_says(path, message, cause, more):
    does, first = REFUSALS[cause]
    variables = {"path": path, "function": "bind_abstract" if "abstract" in message else "bind_exclusive"}
    with Child() as owner, Child() as other:
        owner.do(does, **variables)
        other.do(first, **variables)
        if more:
            os.unlink(path)
        with owner.fork():
            if "children" in cause:
                owner.kill()
            strerror, told = other.do(f"try: {BIND}\nexcept OSError as error: _ = error.strerror, error.owner_pid")
        pid = owner.pid if does else other.pid
    assert strerror == f"{os.strerror(errno.EADDRINUSE)} ({message.replace('4242', str(pid))}{more})"
    assert told == (pid if "4242" in message else None)
