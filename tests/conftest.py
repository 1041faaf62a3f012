"""What every test gets: a short directory, a deadline, and a count of descriptors before and after."""

import faulthandler
import gc
import shutil
import signal
import sys
import tempfile
from pathlib import Path

import pytest

from children import Child
from observed import open_descriptors

DEADLINE = 60.0  # seconds for one test; a hang shows as a failure, with the place where it hung


def pytest_addoption(parser):
    parser.addoption("--schedule", metavar="NAME", help="play this schedule of test_interleavings.py, and print it")
    parser.addoption("--no-skip", action="store_true", help="fail when a test is skipped")
    parser.addoption("--long", action="store_true", help="search further, storm for longer, interrupt more often")


def pytest_configure():
    """A background job of a script ignores SIGINT, and what it starts inherits that: tests send it."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_finish():
    """What is there by now stays: the collections before and after each test need not look at it."""
    gc.collect()
    if hasattr(gc, "freeze"):
        gc.freeze()


def pytest_sessionfinish(session):
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if session.config.getoption("--no-skip") and reporter.stats.get("skipped"):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.fixture
def directory():
    """A directory with a short name, for a socket path has 107 bytes at most."""
    path = tempfile.mkdtemp(prefix="us-", dir="/tmp")
    yield Path(path)
    shutil.rmtree(path)


@pytest.fixture
def path(directory):
    """Where nothing stands yet."""
    return str(directory / "a.sock")


@pytest.fixture
def long(request):
    """Whether this run may take minutes more than it has to."""
    return request.config.getoption("--long")


@pytest.fixture
def user():
    """A process without root's rights."""
    with Child() as child:
        child.give_up_root()
        yield child


@pytest.fixture(autouse=True)
def deadline(request):
    """Interrupt a test that hangs."""

    def interrupt(number, frame):
        faulthandler.dump_traceback(file=sys.__stderr__)
        pytest.fail(f"still running after {seconds} s")

    marker = request.node.get_closest_marker("deadline")
    seconds = marker.args[0] if marker else DEADLINE
    usual = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, usual)


@pytest.fixture(autouse=True)
def no_descriptor_leaks(deadline):
    """A test ends with the descriptors that it began with."""
    gc.collect()
    at_first = open_descriptors()
    yield
    gc.collect()
    assert open_descriptors() == at_first
