"""The library with one decision taken out, as other behaviour of its system calls and its public names.

    break_package("lockf for flock")  # for good

    with broken("lockf for flock"):
        ...

A variant is the first hook: a test's own hooks, or a search, see the calls that the variant makes of the package's.
"""

import contextlib
import errno
import fcntl
import os
import socket
import stat
import threading
import types
import warnings

import unixsock
from system_calls import Call, intercepted

VARIANTS = {}  # by name: what to do instead of a call of this name, or of any ("*")


class State(threading.local):
    """Of this thread's start or close."""

    closing = False  # inside of Guard.close()
    undoing = False  # and that inside of bind_exclusive()
    starting = False
    lock = None  # the lock file's descriptor, when it was opened by this start or this close
    address = None  # what was bound last, and from which directory
    directory = None
    found = None  # what lstat(2) said of the name, and whether it was probed since
    probed = False
    mode = None  # that was set


here = State()
locks = {}  # by descriptor, the paths of open lock files
postponed = []
_for_good = contextlib.ExitStack()


def variant(name, *calls):
    def register(function):
        VARIANTS.setdefault(name, {}).update(dict.fromkeys(calls, function))
        return function

    return register


def hook_of(name):
    instead = VARIANTS[name]

    def hook(call):
        if call.name == "socket.bind":
            here.address, here.directory = call.args[1], os.getcwd()
        function = instead.get(call.name) or instead.get("*")
        of_lock = call.name == "os.open" and call.args[0].endswith(".lock")
        closed = locks.get(call.args[0]) if call.name == "os.close" else None
        result = function(call) if function else call.run()
        if of_lock:
            here.lock = result
            locks[result] = call.args[0]
        if closed and locks.get(call.args[0]) is closed:
            del locks[call.args[0]]
        return result

    return hook


@contextlib.contextmanager
def broken(name):
    """Break the package in this process, and in those that it forks."""
    close, bind = unixsock.Guard.close, unixsock.bind_exclusive

    def closing(guard):
        before = vars(here).copy()
        here.closing, here.undoing, here.lock = True, here.starting, None
        try:
            VARIANTS[name].get("Guard.close", close)(guard)
        finally:
            vars(here).update({"closing": False, "undoing": False, **before})
            while postponed and not here.closing:
                postponed.pop().run()

    def starting(*args, **options):
        here.starting, here.mode = True, None
        try:
            return bind(*args, **options)
        finally:
            here.starting = False

    unixsock.Guard.close, unixsock.bind_exclusive = closing, starting
    with intercepted(hook_of(name)), contextlib.ExitStack() as stack:
        stack.callback(setattr, unixsock, "bind_exclusive", bind)
        stack.callback(setattr, unixsock.Guard, "close", close)
        VARIANTS[name].get("Guard", lambda: None)()
        yield


def break_package(name):
    """Break it for as long as this process lives."""
    _for_good.enter_context(broken(name))


# The lock.


@variant("no comparison of inodes after flock", "os.lstat")
def _(call):
    return os.fstat(here.lock) if call.args[0] == locks.get(here.lock) else call.run()


@variant("LOCK_UN at close", "os.close")
def _(call):
    if call.args[0] in locks:
        call.other("fcntl.flock", fcntl.flock, call.args[0], fcntl.LOCK_UN)
    return call.run()


@variant("the lock file unlinked at close", "os.close")
def _(call):
    call.run()
    if here.closing and call.args[0] in locks and call.args[0] != here.lock:
        call.other("os.unlink", os.unlink, locks[call.args[0]])


@variant("the lock file unlinked at close", "os.open")
def _(call):
    if here.closing and call.args[0].endswith(".lock"):
        call.args = (call.args[0], call.args[1] | os.O_CREAT, 0o600)
    return call.run()


@variant("the name cleared at close without the lock", "fcntl.flock")
@variant("the name cleared at close under the guard's old lock", "fcntl.flock")
def _(call):
    return None if here.closing else call.run()


@variant("the name cleared at close under the guard's old lock", "os.close")
def _(call):
    if here.closing and call.args[0] in locks and call.args[0] != here.lock:
        return postponed.append(call)  # until the close ends
    return call.run()


@variant("lockf for flock", "fcntl.flock")
def _(call):
    return call.other("fcntl.lockf", fcntl.lockf, *call.args)


def flags_of_lock(name, change):
    @variant(name, "os.open")
    def _(call):
        if call.args[0].endswith(".lock"):
            call.args = (call.args[0], change(call.args[1]), 0o600)
        return call.run()


flags_of_lock("O_TRUNC on the lock file", lambda flags: flags | os.O_TRUNC)
flags_of_lock("O_CREAT on a lock file that exists", lambda flags: flags if here.closing else flags | os.O_CREAT)
flags_of_lock("no O_NOFOLLOW", lambda flags: flags & ~os.O_NOFOLLOW)


# Is anyone there?


@variant("stale cleared without asking whether it is live", "socket.connect_ex")
def _(call):
    return errno.ECONNREFUSED


@variant("asking with a stream connect only", "socket.connect_ex")
def _(call):
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(0)
        return call.other("socket.connect_ex", socket.socket.connect_ex, client, call.args[1])


@variant("no second probe", "socket.connect_ex")
def _(call):
    return call.run() if call.args[0].type == socket.SOCK_DGRAM else errno.ECONNREFUSED


@variant("probing with what stands for socket.socket", "socket.socket")
def _(call):
    return call.run() if call.args[1:] == () else socket.socket(*call.args)


@variant("the name not compared before its unlink", "socket.connect_ex")
@variant("the name compared by its inode alone", "socket.connect_ex")
def _(call):
    here.probed = True
    return call.run()


def compared(name, what_is_seen):
    @variant(name, "os.lstat")
    def _(call):
        file = call.run()
        if not call.args[0].endswith(".lock"):
            file = what_is_seen(here.found, file) if here.probed else file
            here.found, here.probed = file, False
        return file


def with_the_time(found, file):
    of_file = {name: getattr(file, name) for name in ("st_mode", "st_dev", "st_ino")}
    return types.SimpleNamespace(**of_file, st_ctime_ns=found.st_ctime_ns)


compared("the name not compared before its unlink", lambda found, _: found)
compared("the name compared by its inode alone", with_the_time)


@variant("no wait for a bind that is half done", "os.rename")
def _(call):
    return None


@variant("stat for lstat", "os.lstat")
def _(call):
    return call.run() if call.args[0].endswith(".lock") else call.other("os.stat", os.stat, *call.args)


# The mode, the path, the guard.


@variant("the mode set after listen", "socket.bind")
def _(call):
    call.run()
    if call.args[0].type != socket.SOCK_DGRAM:
        call.other("socket.listen", socket.socket.listen, call.args[0])


@variant("chmod through a link", "os.chmod")
def _(call):
    call.args = (here.address, *call.args[1:])
    return call.run()


@variant("/proc/self for /proc/thread-self", "os.chmod")
def _(call):
    call.args = (call.args[0].replace("/proc/thread-self/", "/proc/self/"), *call.args[1:])
    return call.run()


@variant("the mode not looked at after chmod", "os.chmod")
def _(call):
    call.run()
    here.mode = call.args[1]


@variant("the mode not looked at after chmod", "os.lstat")
def _(call):
    file = call.run()
    return file if here.mode is None else types.SimpleNamespace(st_mode=stat.S_IFMT(file.st_mode) | here.mode)


def paths_of(name, change):
    @variant(name, "*")
    def _(call):
        call.args = tuple([change(arg) if isinstance(arg, str) and arg.startswith("/") else arg for arg in call.args])
        return call.run()


paths_of(
    "the relative path kept for close", lambda path: os.path.relpath(path, here.directory) if here.closing else path
)
paths_of("a normalised path", os.path.normpath)


@variant("a start that fails after bind leaves its socket file", "os.lstat")
def _(call):
    if here.undoing and call.args[0] == here.address:
        raise FileNotFoundError(errno.ENOENT, "not cleared")
    return call.run()


@variant("two closers in one close", "Guard.close")
def _(guard, close=unixsock.Guard.close, inside={}):  # noqa: B006 - by guard, the lock of a close that is going on
    if guard in inside:
        with contextlib.suppress(OSError):
            Call.of_package("os.close", os.close, inside[guard])
    elif not guard.closed:
        inside[guard] = guard.fileno()
        close(guard)


@variant("what a signal handler raises taken for an answer of the system", "*")
def _(call):
    try:
        return call.run()
    except OSError as error:
        if error.errno is None:
            raise OSError(errno.EIO, str(error)) from error
        raise


@variant("a dropped guard keeps its lock", "Guard")
def _():
    def warn(guard):
        if not guard.closed:
            warnings.warn(f"unclosed {guard!r}", ResourceWarning, stacklevel=1)

    unixsock.Guard.__del__ = warn


@variant("a guard that can be copied", "Guard")
def _():
    unixsock.Guard.__reduce__ = object.__reduce__
