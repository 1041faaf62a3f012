"""Every system call of the package, seen before it happens.

    def hook(call):
        print(call.name, call.args)  # os.open ('/tmp/a.sock.lock', 657410)
        return call.run()  # what the package gets; a hook may as well raise, or answer without running it

    with intercepted(hook):
        sock, guard = unixsock.bind_exclusive(path)
        guard.close()

Of several hooks the first one stands next to the package, and its run() goes to the second. before(), after() and
instead() are hooks for one name of a call.

Names are "os.open", "os.path.exists", "fcntl.flock", "time.sleep"; "socket.socket" for the making of a socket, and
"socket.bind" for its methods, whose first argument is the socket; "open" for the builtin and for io.FileIO of a path,
and "file.read" for the methods of what it returned. The end of a with statement is a "socket.close" or a "file.close".
An io.FileIO of a descriptor closes itself: its close, even by the collector, is the "os.close" of the number.

Only what _PURE names is taken for no system call, so that one which the package makes in future is seen, too. Seen
are sockets and files that were made inside.
"""

import _socket
import contextlib
import fcntl
import io
import itertools
import os
import socket
import sys
import time
import types
import weakref

_PURE = {
    *("os.fsencode", "os.fsdecode", "os.fspath", "os.strerror", "os.major", "os.minor", "os.makedev", "os.getpid"),
    *("os.path." + name for name in ("join", "split", "basename", "dirname", "isabs", "normpath", "samestat")),
    *("socket.fileno", "socket.detach", "socket.gettimeout", "socket.getblocking"),
    *("time.monotonic", "time.time"),
}

_hooks = []  # those in force: sockets and files that outlive them are ordinary ones


class Call:
    """One call that is about to happen. A hook may change its arguments."""

    __slots__ = ("_hooks", "args", "function", "kwargs", "name")

    def __init__(self, name, function, args, kwargs, hooks=()):
        self.name = name
        self.function = function
        self.args = args
        self.kwargs = kwargs
        self._hooks = hooks

    def __repr__(self):
        return f"{self.name}{self.args}"

    def run(self):
        if not self._hooks:
            return self.function(*self.args, **self.kwargs)
        hook, *others = self._hooks
        return hook(Call(self.name, self.function, self.args, self.kwargs, others))

    @classmethod
    def of_package(cls, name, function, *args):
        """Make a call as if the package did."""
        return cls(name, function, args, {}, _hooks).run()

    def other(self, name, function, *args):
        """Make another call, which the hooks see that would see this one."""
        return Call(name, function, args, {}, self._hooks).run()


@contextlib.contextmanager
def intercepted(hook):
    """Send every system call of the package, in all threads, through `hook`, which gets a Call."""
    _hooks.append(hook)
    changed = []
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] == "unixsock":
            names = vars(module)
            originals = {key: value for key, value in names.items() if id(value) in _REPLACEMENTS}
            changed.append((names, originals))
            names.update({key: _REPLACEMENTS[id(value)] for key, value in originals.items()})
            names.setdefault("open", _REPLACEMENTS[id(open)])
    try:
        yield
    finally:
        _hooks.remove(hook)
        for names, originals in changed:
            names.update(originals)
            if originals and not _hooks:
                del names["open"]


def instead(name, answer):
    """Let `answer(call)` be what a call of that name returns, or raises."""
    return intercepted(lambda call: answer(call) if call.name == name else call.run())


def before(name, does, *, times=1):
    """Let `does(call)` happen before each of the first so many calls of that name."""
    numbers = itertools.count()

    def answer(call):
        if next(numbers) < times:
            does(call)
        return call.run()

    return instead(name, answer)


def after(name, does):
    """Let `does(call)` happen after each call of that name."""

    def answer(call):
        result = call.run()
        does(call)
        return result

    return instead(name, answer)


def fails_with(code):
    """For instead(): the call fails with this errno."""

    def answer(call):
        raise OSError(code, os.strerror(code))

    return answer


def _all_replacements():
    """What the package gets in place of a module, or of a function that it has imported by name; by id."""
    socket_class = type("Socket", (_Socket,), dict(_system_calls("socket", socket.socket)))
    os_path = _proxy("os.path", os.path)
    bare_class = type("Socket", (_socket.socket,), dict(_system_calls("socket", _socket.socket)))
    proxies = {
        os.path: os_path,
        os: _proxy("os", os, path=os_path),
        fcntl: _proxy("fcntl", fcntl),
        socket: _proxy("socket", socket, socket=_through("socket.socket", socket_class)),
        _socket: _proxy("socket", _socket, socket=_through("socket.socket", bare_class)),
        time: _proxy("time", time),
        io: _proxy("io", io, FileIO=_file_io),
    }
    replacements = {id(open): _through("open", _File)}
    for module, proxy in proxies.items():
        for key, value in vars(module).items():
            if getattr(proxy, key) is not value:
                replacements[id(value)] = getattr(proxy, key)
    replacements.update((id(module), proxy) for module, proxy in proxies.items())
    return replacements


def _proxy(prefix, module, **others):
    return types.SimpleNamespace(**{**vars(module), **dict(_system_calls(prefix, module)), **others})


def _system_calls(prefix, owner):
    """The name of each that `owner` has among its attributes, and what goes through the hook in its place."""
    for key in dir(owner):
        name = f"{prefix}.{key}"
        value = getattr(owner, key)
        if callable(value) and not isinstance(value, type) and not key.startswith("_") and name not in _PURE:
            yield key, _through(name, value)


def _through(name, function):
    def call(*args, **kwargs):
        return Call(name, function, args, kwargs, _hooks).run()

    return call


class _Socket(socket.socket):
    __slots__ = ()

    def __repr__(self):  # the usual one asks the kernel
        return f"<socket {self.fileno()}>"


class _File:
    """What the builtin open() returned."""

    def __init__(self, *args, **kwargs):
        vars(self).update(_system_calls("file", open(*args, **kwargs)))  # noqa: SIM115 - the caller closes it

    def __enter__(self):
        return self

    def __exit__(self, *exc_info):
        self.close()


class _Descriptor(io.FileIO):
    """An io.FileIO of a descriptor."""

    def __init__(self, number, mode):
        super().__init__(number, mode)
        _descriptors[number] = self

    def close(self):
        if not self.closed:
            _through("os.close", lambda _: super(_Descriptor, self).close())(self.fileno())


_descriptors = weakref.WeakValueDictionary()  # by number


def closes_itself(number):
    """Whether a file object has it, which closes it when it is dropped."""
    return number in _descriptors and not _descriptors[number].closed


def close_unseen(number):
    """Close `number` as the kernel does when a process exits: no hook sees it, and no file object closes it again."""
    if closes_itself(number):
        io.FileIO.close(_descriptors[number])
    else:
        os.close(number)


def _file_io(file, mode="r"):
    if isinstance(file, int):
        return _Descriptor(file, mode)
    return _through("open", lambda path: _File(path, "rb", buffering=0))(file)


_REPLACEMENTS = _all_replacements()
