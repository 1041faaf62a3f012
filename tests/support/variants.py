"""The library with one decision taken out, as other behaviour of its system calls and its public names.

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

import unixsock
from system_calls import Call, intercepted


class State(threading.local):
    """Of this thread's bind_exclusive or close."""

    starting = closing = False
    lock = None  # the lock file's descriptor, once this call has opened it
    address = directory = None  # what was bound last, and the working directory then
    found, probed = None, False  # what lstat(2) said of the socket file; whether it was probed since
    mode = None  # that was set


here = State()
locks = {}  # by descriptor, the paths of open lock files
postponed = []
kept = []
_for_good = contextlib.ExitStack()


@contextlib.contextmanager
def broken(name):
    """Break the package in this process, and in those that it forks."""
    close, bind = unixsock.Guard.close, unixsock.bind_exclusive
    instead = VARIANTS[name]

    def hook(call):
        if call.name == "socket.bind":
            here.address, here.directory = call.args[1], os.getcwd()
        path = locks.get(call.args[0]) if call.name == "os.close" else None
        result = instead.get(call.name, instead.get("*", Call.run))(call)
        if path and locks.get(call.args[0]) is path:
            del locks[call.args[0]]
        if call.name == "os.open" and of_lock(call):
            here.lock = result
            locks[result] = call.args[0]
        return result

    def closing(guard):
        outer = vars(here).copy()
        here.closing, here.lock = True, None
        try:
            instead.get("Guard.close", close)(guard)
        finally:
            vars(here).update({"closing": False, **outer})
            while postponed and not here.closing:
                postponed.pop().run()

    def starting(*args, **options):
        here.starting, here.mode = True, None
        try:
            return bind(*args, **options)
        finally:
            here.starting = False

    with intercepted(hook), contextlib.ExitStack() as stack:
        for owner, key, value in [
            (unixsock, "bind_exclusive", starting),
            (unixsock.Guard, "close", closing),
            *((unixsock.Guard, key, value) for key, value in instead.get("Guard", {}).items()),
        ]:
            stack.callback(setattr, owner, key, getattr(owner, key))
            setattr(owner, key, value)
        yield


def break_package(name):
    """Break it for as long as this process lives."""
    _for_good.enter_context(broken(name))


def of_lock(call):
    return call.args[0].endswith(".lock")


def is_own_lock(call):
    """Whether a close lets go of what the guard has held all along."""
    return here.closing and call.args[0] in locks and call.args[0] != here.lock


def lock_flags(change):
    """The lock file opened with other flags."""

    def opened(call):
        if of_lock(call):
            call.args = (call.args[0], change(call.args[1]), 0o600)
        return call.run()

    return {"os.open": opened}


def other_paths(change):
    def call_with(call):
        call.args = tuple([change(arg) if isinstance(arg, str) and arg.startswith("/") else arg for arg in call.args])
        return call.run()

    return {"*": call_with}


def unlock_and_close(call):
    if call.args[0] in locks:
        call.other("fcntl.flock", fcntl.flock, call.args[0], fcntl.LOCK_UN)
    return call.run()


def close_and_unlink(call):
    own = is_own_lock(call)
    call.run()
    if own:
        call.other("os.unlink", os.unlink, locks[call.args[0]])


def connect_as_a_client(call):
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(0)
        return call.other("socket.connect_ex", socket.socket.connect_ex, client, call.args[1])


def note_the_probe(call):
    here.probed = True
    return call.run()


def compared(what_is_seen):
    """Between the probe and the unlink something else is seen of the socket file."""

    def look(call):
        file = call.run()
        if not of_lock(call):
            file = what_is_seen(file) if here.probed else file
            here.found, here.probed = file, False
        return file

    return {"socket.connect_ex": note_the_probe, "os.lstat": look}


def with_the_time_found(file):
    seen = {name: getattr(file, name) for name in ("st_mode", "st_dev", "st_ino")}
    return types.SimpleNamespace(**seen, st_ctime_ns=here.found.st_ctime_ns)


def bind_and_listen(call):
    call.run()
    if call.args[0].type != socket.SOCK_DGRAM:
        call.other("socket.listen", socket.socket.listen, call.args[0])


def chmod_as(change):
    def chmod(call):
        call.args = (change(call.args[0]), *call.args[1:])
        return call.run()

    return {"os.chmod": chmod}


def chmod_and_note(call):
    call.run()
    here.mode = call.args[1]


def look_at_the_mode_set(call):
    file = call.run()
    if here.mode is None:
        return file
    return types.SimpleNamespace(st_mode=stat.S_IFMT(file.st_mode) | here.mode, st_gid=file.st_gid)


def see_a_socket(call):
    file = call.run()
    if call.args[0] == here.lock:
        return file
    return types.SimpleNamespace(st_mode=stat.S_IFSOCK | stat.S_IMODE(file.st_mode), st_gid=file.st_gid)


def chown_unless_it_looks_right(call):
    return None if os.stat(call.args[0]).st_gid == call.args[2] else call.run()


def chmod_first(call):
    call.other("os.chmod", os.chmod, call.args[0], 0o660)
    return call.run()


def look_unless_undoing(call):
    if here.starting and here.closing and call.args[0] == here.address:
        raise FileNotFoundError(errno.ENOENT, "not cleared")
    return call.run()


def close_in_any_case(guard, close=unixsock.Guard.close, inside={}):  # noqa: B006 - the locks of closes that are going on
    if guard in inside:
        with contextlib.suppress(OSError):
            Call.of_package("os.close", os.close, inside[guard])
    elif not guard.closed:
        inside[guard] = guard.fileno()
        close(guard)


def take_for_an_answer(call):
    try:
        return call.run()
    except OSError as error:
        if error.errno is None:
            raise OSError(errno.EIO, str(error)) from error
        raise


def keep_the_lock(guard, *args, init=unixsock.Guard.__init__):
    init(guard, *args)
    kept.append(args)


# By name: what happens instead of a call of this name (of each: "*"), or of Guard.close; other attributes of Guard.
VARIANTS = {
    "no comparison of inodes after flock": {
        "os.lstat": lambda call: os.fstat(here.lock) if call.args[0] == locks.get(here.lock) else call.run()
    },
    "LOCK_UN at close": {"os.close": unlock_and_close},
    "the lock file unlinked at close": {
        "os.close": close_and_unlink,
        **lock_flags(lambda flags: flags | os.O_CREAT if here.closing else flags),
    },
    "the path cleared at close without the lock": {
        "fcntl.flock": lambda call: None if here.closing else call.run(),
    },
    "the path cleared at close under the guard's old lock": {
        "fcntl.flock": lambda call: None if here.closing else call.run(),
        "os.close": lambda call: postponed.append(call) if is_own_lock(call) else call.run(),
    },
    "lockf for flock": {"fcntl.flock": lambda call: call.other("fcntl.lockf", fcntl.lockf, *call.args)},
    "O_TRUNC on the lock file": lock_flags(lambda flags: flags | os.O_TRUNC),
    "O_CREAT on a lock file that exists": lock_flags(lambda flags: flags if here.closing else flags | os.O_CREAT),
    "no O_NOFOLLOW": lock_flags(lambda flags: flags & ~os.O_NOFOLLOW),
    "stale cleared without asking whether it is live": {"socket.connect_ex": lambda _: errno.ECONNREFUSED},
    "asking with a stream connect only": {"socket.connect_ex": connect_as_a_client},
    "no second probe": {
        "socket.connect_ex": lambda call: call.run() if call.args[0].type == socket.SOCK_DGRAM else errno.ECONNREFUSED
    },
    "probing with what stands for socket.socket": {"socket.socket": lambda call: socket.socket(*call.args)},
    "no wait for a bind that is half done": {"os.rename": lambda _: None},
    "the socket file not compared before its unlink": compared(lambda _: here.found),
    "the socket file compared by its inode alone": compared(with_the_time_found),
    "stat for lstat": {
        "os.lstat": lambda call: call.run() if of_lock(call) else call.other("os.stat", os.stat, *call.args)
    },
    "the mode set after listen": {"socket.bind": bind_and_listen},
    "chmod through a link": chmod_as(lambda _: here.address),
    "/proc/self for /proc/thread-self": chmod_as(lambda path: path.replace("/thread-self/", "/self/")),
    "the mode not looked at after chmod": {"os.chmod": chmod_and_note, "os.fstat": look_at_the_mode_set},
    "what stands at the path given the mode, whatever it is": {"os.fstat": see_a_socket},
    "the group's bits from bind on": {"os.fchmod": lambda _: None},
    "no group set where it looks right": {"os.chown": chown_unless_it_looks_right},
    "chown and chmod the other way round": {"os.chown": chmod_first},
    "the relative path kept for close": other_paths(
        lambda path: os.path.relpath(path, here.directory) if here.closing else path
    ),
    "a normalised path": other_paths(os.path.normpath),
    "two closers in one close": {"Guard.close": close_in_any_case},
    "a call that fails after bind leaves its socket file": {"os.lstat": look_unless_undoing},
    "what a signal handler raises taken for an error of a system call": {"*": take_for_an_answer},
    "a dropped guard keeps its lock": {"Guard": {"__init__": keep_the_lock}},
    "a guard that can be copied": {"Guard": {"__reduce__": object.__reduce__}},
}
