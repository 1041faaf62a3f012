"""An exception at each system call of a bind and a close, as signal handlers raise them: it arrives, nothing is left.

KeyboardInterrupt, and errors of the classes that OSError has for some errnos, but without an errno: these do not come
from a system call, so the library neither takes them for an answer nor names a file in them.
"""

import contextlib
import errno
import gc
import itertools
import os
import warnings

import pytest

from observed import OTHER_GROUP, mode_of, on_linux, open_descriptors
from scenes import SCENES, directory_at_the_lock_path, scene, stage, stale, total
from system_calls import closes_itself, fails_with, instead, intercepted
from unixsock import bind_abstract, bind_exclusive


@contextlib.contextmanager
def listen_that_fails(path):
    """So that all is undone from there on."""
    with stale(path), instead("socket.listen", fails_with(errno.ENOBUFS)):
        yield


MORE_SCENES = {
    "refused: directory at the lock path": (directory_at_the_lock_path, {}),
    "refused: listen": (listen_that_fails, {"mode": 0o660, "group": OTHER_GROUP}),
}
RAISED = [KeyboardInterrupt(), TimeoutError("deadline"), FileNotFoundError("gone"), BlockingIOError("in use")]


@pytest.fixture(scope="module")
def interrupts(request):
    yield from total(request, "interrupts, each before or after another system call")


@pytest.mark.parametrize("error", RAISED, ids=repr)
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("case", {**SCENES, **MORE_SCENES})
def test_an_interrupt_at_any_system_call_arrives_and_leaves_nothing_behind(directory, interrupts, case, when, error):
    setup, options = {**SCENES, **MORE_SCENES}[case]
    with stage(directory) as path:
        for step in itertools.count():
            with scene(path, setup):
                if not interrupted(when, step, error, bind_exclusive, path, options):
                    break
            interrupts.append(step)
    assert step >= 2


@on_linux
@pytest.mark.parametrize("error", RAISED, ids=repr)
@pytest.mark.parametrize("when", ["before", "after"])
def test_an_interrupt_at_any_system_call_frees_the_abstract_name(interrupts, when, error):
    name = f"unixsock-{os.getpid()}"
    for step in itertools.count():
        if not interrupted(when, step, error, bind_abstract, name, {}):
            break
        interrupts.append(step)
        bind_abstract(name)[1].close()
    assert step > 3


def interrupted(when, step, error, bind, address, options):
    """Raise `error` while it binds and closes, before or after system call number `step`; False when there is none."""
    mode = mode_of(address)
    args = error.args
    descriptors = open_descriptors()
    calls, lost, reused = [], [], set()
    guard = None
    arrived = False
    with warnings.catch_warnings(), intercepted(interrupting(when, step, error, calls, lost, reused)):
        # From the finalizer of a socket that was not assigned yet, or about to be closed.
        warnings.simplefilter("ignore", ResourceWarning)
        try:
            guard = bind(address, **options)[1]
            guard.close()
        except type(error) as raised:
            arrived = raised is error
            assert (error.args, getattr(error, "filename", None)) == (args, None)
            error.__traceback__ = error.__context__ = None  # they refer to all that was on its way
        except OSError:
            pass  # of a call that fails anyhow
        if open_descriptors().keys() != descriptors.keys() | reused:
            gc.collect()  # PyPy has not run that finalizer yet
    assert all(os.path.sameopenfile(number, 0) for number in reused)
    for number in (*reused, *lost):
        os.close(number)
    assert open_descriptors() == descriptors
    assert arrived == (len(calls) > step)
    since_bind = calls[calls.index("socket.bind") : step] if "socket.bind" in calls else []
    if guard is None and "socket.close" not in since_bind:  # else an undoing was interrupted, as a close may be
        assert mode_of(address) in (None, mode)  # nothing, or what stood there before
    return arrived


def interrupting(when, step, error, calls, lost, reused):
    """The hook. `lost` gets the one descriptor that it can cost: not assigned yet, or about to be closed.

    Each number that the package has closed is standard input from then on; `reused` has these.
    """

    def run(call):
        number = call.args[0] if call.name == "os.close" else None
        if call.name == "socket.close":
            number = call.args[0].fileno()
        if number in reused:
            pytest.fail(f"{number} is another file by now")
        result = call.run()
        if number not in (None, -1):
            reused.add(os.dup2(0, number))
        return result

    def hook(call):
        calls.append(call.name)
        if len(calls) != step + 1:
            return run(call)
        if call.name == "os.close" and when == "before" and not closes_itself(call.args[0]):
            lost.append(call.args[0])
        elif when == "after":
            with contextlib.suppress(OSError):
                result = run(call)
                if call.name == "os.open":
                    lost.append(result)
        raise error

    return hook
