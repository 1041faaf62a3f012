"""The tests can fail: the library with one decision taken out, and a test that notices.

Each variant is a copy of the package in which some text is replaced; it has to be there exactly once, so that
a variant cannot outlive the code that it breaks.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import unixsock

PACKAGE = Path(unixsock.__file__).parent
TESTS = Path(__file__).parents[1]

# What is broken: the module, the test that notices, and which text is replaced by which.
VARIANTS = {
    "no comparison of inodes after flock": (
        "_lock_file.py",
        "protocol/test_lock_file.py::test_a_lock_on_a_file_that_went_before_flock_is_not_taken_for_the_lock",
        [
            (
                "return os.path.samestat(file, os.lstat(lock_path))",
                "return True",
            ),
        ],
    ),
    "LOCK_UN at close": (
        "_guard.py",
        "protocol/test_close.py::test_a_forked_childs_close_changes_nothing_for_the_parent",
        [
            (
                "                    os.close(lock)\n",
                "                    __import__('fcntl').flock(lock, 8); os.close(lock)\n",
            ),
        ],
    ),
    "the lock file unlinked at close": (
        "_guard.py",
        "promises/test_life.py::test_close_removes_the_name_and_keeps_the_lock_file",
        [
            (
                "                    os.close(lock)\n",
                "                    os.close(lock); os.unlink(self._lock_path)\n",
            ),
        ],
    ),
    "the name cleared at close without the lock": (
        "_guard.py",
        "protocol/test_close.py::test_a_closer_leaves_even_a_dead_name_to_a_sibling_that_holds_the_lock",
        [
            (
                "os.close(claim(self._address, lock_path, create=False))",
                "from unixsock._socket_file import clear_stale; clear_stale(self._address)",
            ),
        ],
    ),
    "the name cleared at close under the guard's old lock": (
        "_guard.py",
        "protocol/test_close.py::test_the_slower_of_two_forked_closers_spares_what_a_stranger_has_bound_since",
        [
            (
                "                    os.close(lock)\n",
                "                    import unixsock._socket_file as s; s.clear_stale(self._address); os.close(lock)\n",
            ),
        ],
    ),
    "stale cleared without asking whether it is live": (
        "_socket_file.py",
        "protocol/test_liveness.py::test_a_bound_server_keeps_its_name_and_nothing_reaches_it",
        [
            (
                "        _refuse_if_bound(path)\n",
                "",
            ),
        ],
    ),
    "asking with a stream connect only": (
        "_socket_file.py",
        "protocol/test_liveness.py::test_a_bound_server_keeps_its_name_and_nothing_reaches_it",
        [
            (
                "answer = _connect(path, socket.SOCK_DGRAM)",
                "answer = _connect(path, socket.SOCK_STREAM)",
            ),
        ],
    ),
    "no second look": (
        "_socket_file.py",
        "protocol/test_liveness.py::test_where_a_datagram_socket_is_refused_by_the_living_the_second_probe_finds_them",
        [
            (
                "answer = _connect(path, socket.SOCK_STREAM)",
                "pass",
            ),
        ],
    ),
    "ENOENT taken for stale": (
        "_socket_file.py",
        "protocol/test_liveness.py::test_a_server_that_comes_after_a_probe_has_found_no_name_keeps_its_own",
        [
            (
                "    if answer in (0, errno.EPROTOTYPE):\n",
                "    if answer == errno.ENOENT:\n        return\n    if answer in (0, errno.EPROTOTYPE):\n",
            ),
        ],
    ),
    "stat for lstat": (
        "_socket_file.py",
        "promises/test_errors.py::test_what_is_not_a_socket_is_left_alone",
        [
            (
                "if not stat.S_ISSOCK(os.lstat(path).st_mode):",
                "if not stat.S_ISSOCK(os.stat(path).st_mode):",
            ),
        ],
    ),
    "lockf for flock": (
        "_lock_file.py",
        "protocol/test_second_owner.py::test_the_same_process_is_refused_and_told_its_own_pid",
        [
            (
                "fcntl.flock(lock, ",
                "fcntl.lockf(lock, ",
            ),
        ],
    ),
    "O_TRUNC on the lock file": (
        "_lock_file.py",
        "protocol/test_lock_file.py::test_the_lock_file_is_never_written_re_moded_or_unlinked",
        [
            (
                "_FLAGS = os.O_RDWR",
                "_FLAGS = os.O_TRUNC | os.O_RDWR",
            ),
        ],
    ),
    "O_CREAT on a lock file that exists": (
        "_lock_file.py",
        "protocol/test_lock_file.py::test_a_lock_file_that_exists_is_opened_without_o_creat",
        [
            (
                "return os.open(lock_path, _FLAGS)\n",
                "return os.open(lock_path, _FLAGS | (os.O_CREAT if create else 0), 0o600)\n",
            ),
        ],
    ),
    "no O_NOFOLLOW": (
        "_lock_file.py",
        "protocol/test_lock_file.py::test_what_is_planted_at_the_lock_path_is_refused_at_once",
        [
            (
                " | os.O_NOFOLLOW",
                "",
            ),
        ],
    ),
    "the mode set after listen": (
        "_bind.py",
        "promises/test_modes.py::test_until_it_has_its_mode_a_socket_that_listens_refuses_every_client",
        [
            (
                "            set_mode(address, mode)  # before",
                "            sock.listen()\n            set_mode(address, mode)  # before",
            ),
        ],
    ),
    "chmod through a link": (
        "_socket_file.py",
        "promises/test_modes.py::test_a_link_that_is_planted_at_the_last_moment_is_not_followed",
        [
            (
                'if sys.platform != "linux":\n        os.chmod(path, mode, follow_symlinks=False)',
                "if True:\n        os.chmod(path, mode)",
            ),
        ],
    ),
    "the relative path kept for close": (
        "_bind.py",
        "promises/test_paths.py::test_a_relative_path_is_joined_to_the_working_directory_once",
        [
            (
                "guard = Guard(address, ",
                "guard = Guard(os.path.relpath(address), ",
            ),
        ],
    ),
    "a normalised path": (
        "_bind.py",
        "promises/test_paths.py::test_a_path_is_never_normalised",
        [
            (
                "absolute = checked_path(given)",
                "absolute = os.path.normpath(checked_path(given))",
            ),
        ],
    ),
    "close twice from two threads": (
        "_guard.py",
        "protocol/test_close.py::test_a_second_close_inside_the_first_closes_no_descriptor_twice",
        [
            (
                "sock, lock = self._held.pop()",
                "sock, lock = self._held[0]",
            ),
            (
                "            # All in this one function",
                "            self._held.clear()\n            # All in this one function",
            ),
        ],
    ),
    "the guard made after bind": (
        "_bind.py",
        "protocol/test_guard_lifetime.py::test_a_start_that_fails_at_a_step_leaves_no_socket_file_and_no_lock",
        [
            (
                "            guard = Guard(",
                "            _bind(sock, address)\n            guard = Guard(",
            ),
            (
                "        _bind(sock, address)\n        if mode",
                "        if mode",
            ),
        ],
    ),
    "a guard that can be copied": (
        "_guard.py",
        "promises/test_errors.py::test_a_guard_can_be_neither_pickled_nor_copied",
        [
            (
                "def __reduce__(self)",
                "def _reduce(self)",
            ),
        ],
    ),
}


@pytest.mark.parametrize("broken", VARIANTS)
def test_a_broken_variant_is_noticed(directory, broken):
    module, test, replacements = VARIANTS[broken]
    copy = directory / "unixsock"
    shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    source = (copy / module).read_text()
    for text, instead in replacements:
        assert source.count(text) == 1
        source = source.replace(text, instead)
    (copy / module).write_text(source)
    outcome = _run(directory, test)
    assert outcome.returncode == pytest.ExitCode.TESTS_FAILED, outcome


def test_what_notices_the_variants_finds_nothing_in_the_library_itself(directory):
    outcome = _run(PACKAGE.parent, *{test for _, test, _ in VARIANTS.values()})
    assert outcome.returncode == pytest.ExitCode.OK, outcome


def _run(where, *tests):
    """Run tests of this directory with the unixsock that stands in `where`."""
    command = [sys.executable, "-B", "-m", "pytest", "-qx", "-p", "no:cacheprovider", "--rootdir", TESTS.parent]
    environment = {**os.environ, "PYTHONPATH": str(where)}
    return subprocess.run(
        [*command, *(TESTS / test for test in tests)],
        cwd=TESTS.parent,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
