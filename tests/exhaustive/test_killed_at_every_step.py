"""SIGKILL before each system call of a bind and a close: the next owner gets the path, nobody loses anything."""

import itertools
import os
import signal
import traceback

import pytest

from scenes import SCENES, scene, stage, total, verdict
from system_calls import intercepted
from unixsock import bind_exclusive


@pytest.fixture(scope="module")
def kills(request):
    yield from total(request, "processes killed, each before another system call")


@pytest.mark.parametrize("case", SCENES)
def test_a_process_killed_before_any_system_call_is_in_nobodys_way(directory, kills, case):
    setup, options = SCENES[case]
    with stage(directory) as path:
        for step in itertools.count():
            with scene(path, setup):
                if not killed_before(step, path, options):
                    break
            kills.append(step)
    assert step > 5


def killed_before(step, path, options):
    """Bind and close in a forked child; whether it was killed, before its system call number `step`."""
    child = os.fork()
    if child == 0:
        try:
            signal.alarm(10)  # its handler raises
            steps = itertools.count()

            def hook(call):
                if next(steps) == step:
                    os.kill(os.getpid(), signal.SIGKILL)
                return call.run()

            with intercepted(hook):
                verdict(bind_exclusive, path, options)
            os._exit(0)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(1)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status in (0, -signal.SIGKILL)
    return status != 0
