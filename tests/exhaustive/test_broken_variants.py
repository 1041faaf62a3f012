"""The tests can fail: the library with one decision taken out, and a test that notices.

A variant counts as noticed when the broken library goes on doing its ordinary work (test_life, but for what the variant
is about), and the test fails by an assertion, or because an error that has to come does not.
"""

import os
import re
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

import variants
from children import Child
from observed import OTHER_GROUP

TESTS = Path(__file__).parents[1]
LIFE = "api/test_life.py"

# Each variant, the test that notices, and after "but" what the variant denies itself of test_life.
NOTICED = """
no comparison of inodes after flock
    ownership/test_lock_file.py::test_a_lock_on_a_file_that_went_before_flock_is_not_taken_for_the_lock
LOCK_UN at close
    ownership/test_close.py::test_a_forked_childs_close_changes_nothing_for_the_parent
the lock file unlinked at close
    api/test_life.py::test_close_removes_the_socket_file_and_keeps_the_lock_file_empty_and_private
the path cleared at close without the lock
    ownership/test_close.py::test_a_closer_leaves_even_a_stale_socket_file_to_a_sibling_that_holds_the_lock
the path cleared at close under the guard's old lock
    ownership/test_close.py::test_the_slower_of_two_forked_closers_spares_what_a_server_without_the_lock_has_bound_since[os.unlink]
stale cleared without asking whether it is live
    ownership/test_liveness.py::test_a_bound_server_keeps_its_path_and_nothing_reaches_it
asking with a stream connect only
    ownership/test_liveness.py::test_a_bound_server_keeps_its_path_and_nothing_reaches_it[listening-SOCK_STREAM-SOCK_STREAM]
no second probe
    ownership/test_liveness.py::test_a_live_stream_socket_that_refuses_the_datagram_probe_is_found_by_the_second
probing with what stands for socket.socket
    ownership/test_liveness.py::test_whatever_stands_for_socket_socket_the_probes_are_the_interpreters_own
the socket file not compared before its unlink
    ownership/test_stale.py::test_a_server_that_bound_over_a_stale_socket_file_keeps_its_path
the socket file compared by its inode alone
    ownership/test_stale.py::test_the_inode_number_alone_does_not_make_it_the_same_socket_file
stat for lstat
    api/test_errors.py::test_what_is_not_a_socket_is_named_and_left_alone[a link to stale.sock]
lockf for flock
    ownership/test_second_owner.py::test_the_same_process_is_refused_and_told_its_own_pid
    but api/test_life.py::test_a_second_owner_is_refused
O_TRUNC on the lock file
    ownership/test_lock_file.py::test_the_lock_file_is_never_written_re_moded_or_unlinked
O_CREAT on a lock file that exists
    ownership/test_lock_file.py::test_a_lock_file_that_exists_is_opened_without_o_creat
no O_NOFOLLOW
    ownership/test_lock_file.py::test_what_is_planted_at_the_lock_path_is_named_and_refused_at_once[a link to file]
the mode set after listen
    api/test_modes.py::test_until_it_has_its_mode_a_socket_that_listens_refuses_every_client
chmod through a link
    api/test_modes.py::test_a_file_that_is_planted_at_any_call_after_bind_keeps_its_group_and_mode[a link-63]
/proc/self for /proc/thread-self
    api/test_modes.py::test_in_a_thread_with_descriptors_of_its_own_no_other_file_gets_the_mode
the mode not looked at after chmod
    api/test_modes.py::test_bits_that_did_not_take_are_an_error_that_names_both_modes
the relative path kept for close
    api/test_paths.py::test_a_relative_path_is_joined_to_the_working_directory_once
a normalised path
    api/test_paths.py::test_a_path_is_never_normalised
two closers in one close
    ownership/test_close.py::test_a_second_close_inside_the_first_closes_no_descriptor_twice
a call that fails after bind leaves its socket file
    exhaustive/test_failed_at_every_step.py::test_a_system_call_that_fails_is_reported_and_undone[nothing there]
what a signal handler raises taken for an error of a system call
    exhaustive/test_interrupted_at_every_step.py::test_an_interrupt_at_any_system_call_frees_the_abstract_name
what stands at the path given the mode, whatever it is
    api/test_modes.py::test_a_file_that_is_planted_at_any_call_after_bind_keeps_its_group_and_mode[a file-63]
the group's bits from bind on
    api/test_modes.py::test_at_no_moment_are_the_bits_looser
chown and chmod the other way round
    api/test_group.py::test_from_bind_on_nobody_outside_the_group_has_its_bits
no group set where it looks right
    api/test_group.py::test_a_group_that_looks_right_is_set_all_the_same
a dropped guard keeps its lock
    ownership/test_guard_lifetime.py::test_a_guard_dropped_without_close_warns_and_releases_its_lock
a guard that can be copied
    api/test_errors.py::test_a_guard_can_be_neither_pickled_nor_copied
"""
CASES = re.findall(r"^(\S.*)\n +(\S+.*)(?:\n +but (\S+))?$", NOTICED, re.MULTILINE)


@pytest.fixture(scope="module")
def fresh():
    """An interpreter that has imported pytest, but nothing that a variant has to be there before: it is forked."""
    with Child(cwd=TESTS.parent) as child:
        child.do("import pytest, variants; pytest.main(['--version'])")
        yield child


@pytest.mark.parametrize(("broken", "test", "denied"), CASES, ids=[case[0] for case in CASES])
def test_a_broken_variant_works_and_is_noticed(fresh, directory, broken, test, denied):
    if "chown" in broken and os.getegid() == OTHER_GROUP:
        pytest.skip("this user has one group only")
    wrong = outcomes(fresh, directory, f"import variants; variants.break_package({broken!r})", LIFE, test)
    noticed = [message for name in list(wrong) if name.startswith(test.split("[")[0]) for message in wrong.pop(name)]
    assert wrong.keys() <= {denied}, wrong
    # What has gone wrong by then can make it fail once more as it ends.
    of_test = [message for message in noticed if not message.startswith("failed on ")]
    assert of_test
    for message in of_test:
        assert message.startswith(("assert ", "AssertionError", "Failed: "))


def test_what_notices_the_variants_finds_nothing_in_the_library_itself(fresh, directory):
    assert outcomes(fresh, directory, "", LIFE, *{test for _, test, _ in CASES}) == {}


def outcomes(fresh, directory, first, *tests):
    """What goes wrong in each of these tests, if anything, where each process runs the code `first` before."""
    (directory / "sitecustomize.py").write_text(first)
    path = [str(directory), os.path.dirname(variants.__file__), os.environ.get("PYTHONPATH")]
    report = directory / "outcomes.xml"
    command = [
        "-p",
        "no:cacheprovider",
        "-p",
        "no:unraisableexception",  # in a fork, what it opens would count as a leaked descriptor
        "--tb=short",
        f"--junitxml={report}",
        *(str(TESTS / test) for test in tests),
    ]
    with fresh.fork() as child:
        child.do("os.environ['PYTHONPATH'] = path", path=os.pathsep.join(filter(None, path)))
        child.do(first)
        child.start("_ = pytest.main(command)", command=command)
        assert child.answer(patience=50) in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED)
    found = {}
    for case in ET.parse(report).iter("testcase"):
        name = case.get("classname").replace(".", "/").removeprefix("tests/") + ".py::" + case.get("name")
        for wrong in (*case.iter("failure"), *case.iter("error")):
            found.setdefault(name, []).append(wrong.get("message"))
    return found
