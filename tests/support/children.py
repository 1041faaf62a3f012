"""Processes that do what a test tells them, one line of Python at a time.

    with Child() as other:
        other.do("sock, guard = unixsock.bind_exclusive(path)", path=path)
        assert other.value("guard.closed") is False
        worker = other.fork()
        other.kill()

A child runs this same file. It is told over a socket, answers when it is done, and ends when the test lets go of
its end, so that none outlives the test run. Whoever does not answer within PATIENCE seconds fails the test.
"""

import ctypes
import json
import os
import select
import signal
import socket
import subprocess
import sys
import traceback

PATIENCE = 20.0  # seconds


class ChildError(Exception):
    """What the child raised; `kind` is the name of its type. For an OSError, with its errno and filename."""

    def __init__(self, text, kind, number, filename):
        super().__init__(text)
        self.kind = kind
        self.errno = number
        self.filename = filename


class Child:
    def __init__(self, *options, env=None, cwd=None, **popen):
        """Start a new interpreter; `options` are for it, such as "-I"."""
        ours, theirs = socket.socketpair()
        with theirs:
            arguments = [sys.executable, *options, __file__, str(theirs.fileno())]
            self._process = subprocess.Popen(arguments, pass_fds=[theirs.fileno()], env=env, cwd=cwd, **popen)
        self._take(self._process.pid, ours)

    def _take(self, pid, channel):
        self.pid = pid
        self._channel = channel
        self._lines = channel.makefile("r", encoding="utf-8")
        self._exit = exit_of(pid)

    def __enter__(self):
        return self

    def __exit__(self, *exc_info):
        self.kill()
        for end in (self._lines, self._channel, self._exit):
            end.close()

    def do(self, code, **variables):
        """Run statements in the child; `variables` are set before. ChildError when they raise."""
        self.start(code, **variables)
        return self.answer()

    def value(self, expression, **variables):
        """What `expression` is in the child, through JSON."""
        return self.do(f"_ = {expression}", **variables)

    def start(self, code, **variables):
        """Like do(), without waiting for the answer, which answer() gives."""
        self._channel.sendall(json.dumps([code, variables]).encode() + b"\n")

    def answer(self, patience=PATIENCE):
        self._await(self._channel, patience)
        value, *raised = json.loads(self._lines.readline())
        if raised:
            raise ChildError(*raised)
        return value

    def still_busy(self):
        """Whether what was started has not been answered yet."""
        return not select.select([self._channel], [], [], 0)[0]

    def give_up_root(self):
        """Be an ordinary user from here on, even if root runs the tests."""
        self.do("if os.geteuid() == 0: os.setgroups([]); os.setgid(65534); os.setuid(65534)")

    def fork(self):
        """Fork the child with all it holds; the forked one is another Child."""
        self.start("fork()")
        self._await(self._channel)
        data, [descriptor], _, _ = socket.recv_fds(self._channel, 64, 1)
        forked = object.__new__(Child)
        forked._process = None
        forked._take(json.loads(data), socket.socket(fileno=descriptor))
        return forked

    def kill(self, number=signal.SIGKILL):
        """Send a signal, unless the child has ended, and wait for its end: its descriptors are closed by then."""
        if not select.select([self._exit], [], [], 0)[0]:
            os.kill(self.pid, number)
        return self.wait()

    def wait(self):
        """Wait for the child's end; its exit status as subprocess gives it, None for a forked child."""
        if not select.select([self._exit], [], [], PATIENCE)[0]:
            os.kill(self.pid, signal.SIGKILL)
            raise AssertionError(f"child {self.pid} did not end in {PATIENCE} s")
        return self._process.wait() if self._process else None

    def _await(self, readable, patience=PATIENCE):
        if not select.select([readable], [], [], patience)[0]:
            os.kill(self.pid, signal.SIGKILL)
            raise AssertionError(f"child {self.pid} did not answer in {patience} s")


def exit_of(pid):
    """Something to select on, readable once process `pid` has ended, which need not be our child."""
    if hasattr(select, "kqueue"):
        queue = select.kqueue()
        ended = select.kevent(pid, select.KQ_FILTER_PROC, select.KQ_EV_ADD, select.KQ_NOTE_EXIT)
        queue.control([ended], 0)
        return queue
    if hasattr(os, "pidfd_open"):
        return open(os.pidfd_open(pid), "rb", buffering=0)
    pidfd_open = 434  # PyPy has no name for it; the number is the same on every machine
    number = ctypes.CDLL(None, use_errno=True).syscall(pidfd_open, pid, 0)
    if number < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return open(number, "rb", buffering=0)


# From here on: what the child does.


def _serve(channel, names):
    """Run what comes over `channel`, a line of JSON each, until it ends. Returns the channel of a forked child."""
    with channel.makefile("r", encoding="utf-8") as lines:
        for line in lines:
            code, variables = json.loads(line)
            if code == "fork()":
                forked = _fork(channel)
                if forked:
                    return forked
                continue
            names.update(variables, _=None)
            try:
                exec(code, names)
                answer = [names["_"]]
            except BaseException as error:
                of_system = [getattr(error, name, None) for name in ("errno", "filename")]
                answer = [None, traceback.format_exc(), type(error).__name__, *of_system]
            channel.sendall(json.dumps(answer).encode() + b"\n")
    return None


def _fork(channel):
    ours, theirs = socket.socketpair()
    pid = os.fork()
    if pid == 0:
        theirs.close()
        channel.close()
        return ours
    ours.close()
    with theirs:
        socket.send_fds(channel, [json.dumps(pid).encode()], [theirs.fileno()])
    return None


if __name__ == "__main__":
    # Now: who has given up root may not be able to read them any more. A traceback needs tokenize.
    import tokenize  # noqa: F401

    import unixsock

    names = {name: sys.modules[name] for name in ("os", "signal", "socket", "sys")}
    names["unixsock"] = unixsock
    channel = socket.socket(fileno=int(sys.argv[1]))
    while channel:
        channel = _serve(channel, names)
