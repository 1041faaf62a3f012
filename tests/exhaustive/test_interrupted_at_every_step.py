"""KeyboardInterrupt at each system call of a start and a close: it arrives, and nothing is left behind."""

import contextlib
import gc
import itertools
import os
import sys
import warnings

import pytest

from observed import open_descriptors
from system_calls import intercepted
from tracing import STARTS, mode_of, scene, stage, total
from unixsock import bind_abstract, bind_exclusive


@pytest.fixture(scope="module")
def interrupts(request):
    yield from total(request, "interrupts, each before or after another system call")


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("start", STARTS)
def test_an_interrupt_at_any_system_call_arrives_and_leaves_nothing_behind(directory, interrupts, start, when):
    standing, how = STARTS[start]
    with stage(directory) as path:
        for step in itertools.count():
            with scene(path, standing):
                if not interrupted(when, step, bind_exclusive, path, how):
                    break
            interrupts.append(step)
    assert step > 5


@pytest.mark.skipif(sys.platform != "linux", reason="abstract names exist on Linux only")
@pytest.mark.parametrize("when", ["before", "after"])
def test_an_interrupt_at_any_system_call_frees_the_abstract_name(interrupts, when):
    name = f"unixsock-{os.getpid()}"
    for step in itertools.count():
        if not interrupted(when, step, bind_abstract, name, {}):
            break
        interrupts.append(step)
        bind_abstract(name)[1].close()
    assert step > 3


def interrupted(when, step, bind, address, how):
    """Interrupt a start and close before or after system call number `step`; False when there is none."""
    mode = mode_of(address)
    descriptors = open_descriptors()
    numbers = itertools.count()
    lost = []
    guard = None
    arrived = False
    with warnings.catch_warnings(), intercepted(interrupting(when, step, numbers, lost)):
        # From the finalizer of a socket that was not assigned yet, or about to be closed.
        warnings.simplefilter("ignore", ResourceWarning)
        try:
            guard = bind(address, **how)[1]
            guard.close()
        except KeyboardInterrupt:
            arrived = True
        except OSError:
            pass  # a start that is refused
        if open_descriptors() != descriptors:
            gc.collect()  # PyPy has not run that finalizer yet
    for descriptor in lost:
        os.close(descriptor)
    assert open_descriptors() == descriptors
    assert arrived == (next(numbers) > step)
    if guard is None:
        assert mode_of(address) in (None, mode)  # nothing, or what stood there before
    return arrived


def interrupting(when, step, numbers, lost):
    """The hook. `lost` gets the one descriptor that it can cost: not assigned yet, or about to be closed."""

    def hook(call):
        if next(numbers) != step:
            return call.run()
        if call.name == "os.close" and when == "before":
            lost.append(call.args[0])
        elif when == "after":
            with contextlib.suppress(OSError):
                result = call.run()
                if call.name == "os.open":
                    lost.append(result)
        raise KeyboardInterrupt

    return hook
