"""An error of the system's says in parentheses what can be seen of its cause, and stays the error that it was."""

import copy
import errno
import os
import pickle
import re
import socket

import pytest

import unixsock
from children import ChildError
from observed import BOUND, as_root, expect_refusal, leave_stale, on_linux
from system_calls import before, fails_with, instead, intercepted

USER = 65534 if os.geteuid() == 0 else os.geteuid()  # the uid of the fixture `user`
ME = os.geteuid()


def error_of(child, path, **options):
    with pytest.raises(ChildError) as failure:
        child.do("unixsock.bind_exclusive(path, **options)", path=path, options=options)
    return failure.value


def lock_file_of_another(directory):
    os.close(os.open(directory / "a.sock.lock", os.O_CREAT, 0o600))
    directory.chmod(0o777)


def no_right_to_make_it(directory):
    directory.chmod(0o755)


def directory_that_may_not_be_searched(directory):
    (directory / "a").mkdir(mode=0o700)


def stale_in_a_sticky_directory(directory):
    leave_stale(directory / "a.sock")
    os.chmod(directory / "a.sock", 0o777)
    directory.chmod(0o1777)


def stale_without_write(directory):
    leave_stale(directory / "a.sock")
    os.chmod(directory / "a.sock", 0o755)
    directory.chmod(0o777)


def owned(what, bits):
    return f"{what} belongs to uid {ME} and has the bits {bits}"


LOCK, SOCKET, DIRECTORY = "the lock file", "the socket file", "the directory"

# What is set up by root, the path, the file that the error names, its errno, and what it says in parentheses.
DENIED = [
    (
        lock_file_of_another,
        "a.sock",
        "a.sock.lock",
        errno.EACCES,
        [owned(LOCK, "0o600"), owned(DIRECTORY, "0o777"), "that user's server may be running"],
    ),
    (
        no_right_to_make_it,
        "a.sock",
        "a.sock.lock",
        errno.EACCES,
        [f"this process runs as uid {USER}", owned(DIRECTORY, "0o755")],
    ),
    (
        directory_that_may_not_be_searched,
        "a/b/a.sock",
        "a/b/a.sock.lock",
        errno.EACCES,
        [owned("'{directory}/a' cannot be searched: it", "0o700")],
    ),
    (
        stale_in_a_sticky_directory,
        "a.sock",
        "a.sock",
        errno.EPERM,
        [owned(SOCKET, "0o777"), owned(DIRECTORY, "0o1777 (sticky)")],
    ),
    (stale_without_write, "a.sock", "a.sock", errno.EACCES, [owned(SOCKET, "0o755"), owned(DIRECTORY, "0o777")]),
]


@as_root
@pytest.mark.parametrize(
    ("setup", "path", "named", "code", "facts"), DENIED, ids=lambda value: getattr(value, "__name__", "")
)
def test_what_another_user_is_denied_says_whose_it_is(directory, user, setup, path, named, code, facts):
    directory.chmod(0o755)
    setup(directory)
    error = error_of(user, str(directory / path))
    assert (error.errno, error.filename) == (code, str(directory / named))
    assert f"{os.strerror(code)} ({'; '.join(facts).format(directory=directory)}): '" in str(error)


def test_the_server_of_another_uid_whose_lock_file_it_is_may_be_running(path):
    def deny(call):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), call.args[0])

    unixsock.bind_exclusive(path)[1].close()
    with (
        instead("os.geteuid", lambda _: ME + 1),
        instead("os.open", deny),
        pytest.raises(PermissionError, match="; that user's server may be running"),
    ):
        unixsock.bind_exclusive(path)


def test_bits_that_forbid_their_owner_are_told(directory, path, user):
    directory.chmod(0o777)
    user.do("os.close(os.open(path + '.lock', os.O_CREAT, 0))", path=path)
    error = error_of(user, path)
    assert (error.errno, error.filename) == (errno.EACCES, path + ".lock")
    assert f"(the lock file belongs to uid {USER} and has the bits 0o0; the directory" in str(error)
    assert "that user's server" not in str(error)


@pytest.mark.parametrize("missing", ["b", "b/c"])
def test_a_directory_that_is_missing_is_named(directory, missing):
    path = str(directory / missing / "a.sock")
    words = re.escape(f"{os.strerror(errno.ENOENT)} ('{directory}/b' is missing): {path!r}")
    with pytest.raises(FileNotFoundError, match=words) as failure:
        unixsock.bind_exclusive(path)
    assert failure.value.filename == path


def test_where_a_link_leads_nowhere_its_target_is_what_is_missing(directory):
    (directory / "dangling").symlink_to("nowhere")
    with pytest.raises(FileNotFoundError, match=re.escape(f"('{directory}/nowhere' is missing)")):
        unixsock.bind_exclusive(directory / "dangling" / "a.sock")


@as_root
def test_a_link_on_the_way_is_followed_to_the_directory_that_may_not_be_searched(directory, user):
    directory.chmod(0o755)
    (directory / "private").mkdir(mode=0o700)
    (directory / "link").symlink_to("private/app")
    error = error_of(user, f"{directory}/link/a.sock")
    assert error.errno == errno.EACCES
    assert f"('{directory}/private' cannot be searched: it belongs to" in str(error)


def test_links_that_lead_in_a_circle_are_the_systems_own_words(directory):
    (directory / "loop").symlink_to("loop")
    with pytest.raises(OSError, match=re.escape(f"{os.strerror(errno.ELOOP)}: '{directory}/loop/a.sock'")):
        unixsock.bind_exclusive(directory / "loop" / "a.sock")


NO_SOCKETS = ["EPERM", "EACCES", "EIO", "ENXIO", "EOPNOTSUPP", "ENOSYS", "EAFNOSUPPORT", "EPROTONOSUPPORT"]


@pytest.mark.parametrize("call", ["socket.socket", "socket.bind"])
@pytest.mark.parametrize("code", NO_SOCKETS)
def test_where_there_can_be_no_socket_the_filesystem_or_a_sandbox_may_be_why(path, call, code):
    number = getattr(errno, code)
    words = "the filesystem may hold no sockets, or a sandbox may forbid such sockets"
    with instead(call, fails_with(number)), pytest.raises(OSError, match=words) as failure:
        unixsock.bind_exclusive(path)
    assert (failure.value.errno, failure.value.filename) == (number, path)
    assert ("the directory belongs to" in str(failure.value)) == (code in ("EPERM", "EACCES"))


def test_where_a_stale_socket_file_stands_the_filesystem_does_hold_sockets(path):
    leave_stale(path)
    words = re.escape(f"{os.strerror(errno.EAFNOSUPPORT)} (a sandbox may forbid such sockets): ")
    with instead("socket.socket", fails_with(errno.EAFNOSUPPORT)), pytest.raises(OSError, match=words):
        unixsock.bind_exclusive(path)


@on_linux
def test_an_abstract_name_may_be_forbidden_by_a_sandbox():
    with instead("socket.bind", fails_with(errno.EPERM)), pytest.raises(PermissionError, match="a sandbox may forbid"):
        unixsock.bind_abstract("unixsock-never-bound")
    with instead("socket.bind", fails_with(errno.ENOBUFS)), pytest.raises(OSError, match=os.strerror(errno.ENOBUFS)):
        unixsock.bind_abstract("unixsock-never-bound")


COPIES = {"pickle": lambda error: pickle.loads(pickle.dumps(error)), "copy": copy.copy}


@pytest.mark.parametrize("copied", COPIES)
def test_the_words_survive_pickle_copy_and_repr(directory, path, copied):
    os.mkdir(path + ".lock")
    for place in (path, directory / "missing" / "a.sock"):
        with pytest.raises(OSError, match=r"is a directory, not|is missing") as failure:
            unixsock.bind_exclusive(place)
        error = failure.value
        other = COPIES[copied](error)
        assert type(other) is type(error)
        assert (other.errno, other.filename, str(other)) == (error.errno, error.filename, str(error))
        assert error.strerror in repr(error)


@pytest.mark.parametrize("call", ["os.lstat", "os.stat"])
def test_a_look_that_fails_leaves_the_error_as_it_was(path, call):
    # From bind(2) on, so that only what comes after it sees nothing.
    def nothing_to_see(answer):
        if answer.name == "socket.bind":
            failed.append(True)
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))
        if failed and answer.name == call:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return answer.run()

    failed = []
    with (
        intercepted(nothing_to_see),
        pytest.raises(PermissionError, match=re.escape(os.strerror(errno.EPERM))) as failure,
    ):
        unixsock.bind_exclusive(path)
    assert (failure.value.errno, failure.value.filename) == (errno.EPERM, path)


def test_a_handlers_error_with_an_errno_is_taken_for_the_systems_and_names_the_path(path):
    for named in ([], [b"elsewhere"], [9999]):

        def handle(_, named=named):
            raise ProcessLookupError(errno.ESRCH, os.strerror(errno.ESRCH), *named)

        with before("os.open", handle), pytest.raises(ProcessLookupError) as failure:
            unixsock.bind_exclusive(path)
        assert failure.value.filename == path


def test_an_error_in_words_of_ours_gets_nothing_added(path):
    with open(path, "x"), pytest.raises(FileExistsError) as failure:
        unixsock.bind_exclusive(path)
    assert failure.value.strerror.count("(") == 0


# A command in a message must be safe to paste, and the path stands at the end anyway.
ODD = "it's $(id) `id`.sock"


def refusals(path):
    """The messages of refusals: of an owner with its socket file and without, and of a server without the lock."""
    guard = unixsock.bind_exclusive(path)[1]
    with guard:
        yield expect_refusal(path)
        os.unlink(path)
        yield expect_refusal(path)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path)
        yield expect_refusal(path, BOUND)
    os.unlink(path)


def test_no_refusal_has_a_command_with_a_path_in_it(directory):
    path = str(directory / ODD)
    for error in refusals(path):
        assert str(error).count("$(id)") == 1
        assert str(error).endswith(f": {path!r}")


def test_what_stands_before_the_path_has_at_most_200_characters(directory, path):
    errors = list(refusals(path))
    os.symlink("nowhere", path + ".lock.lock")
    for denied in (path + ".lock", f"/{'n' * 95}/a.sock"):
        with pytest.raises(OSError, match=r"not a regular file|is missing") as failure:
            unixsock.bind_exclusive(denied)
        errors.append(failure.value)
    assert max(len(error.strerror) for error in errors) <= 200
