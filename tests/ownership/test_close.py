"""Every row of the close table: the path stays taken until the last process that holds socket or lock lets go."""

import contextlib
import errno
import os
import shutil
import signal
import socket
import ssl
import threading

import pytest

import unixsock
from children import Child, ChildError
from observed import BIND, BOUND, expect_refusal, open_descriptors, reaches, start_and_close
from system_calls import after, before, intercepted


@pytest.fixture
def owner(path):
    """A process that owns the path."""
    with Child() as child:
        child.do(BIND, path=path)
        yield child


def close(child):
    child.do("guard.close()")


@pytest.mark.parametrize("leave", [close, Child.kill])
def test_forked_workers_keep_path_and_lock_until_the_last_is_gone(path, owner, leave):
    with owner.fork() as first, owner.fork() as last:
        for leaves, serves in [(owner, first), (first, last)]:
            leave(leaves)
            expect_refusal(path)
            assert reaches(path, serves)
        leave(last)
    assert os.path.exists(path) == (leave is Child.kill)
    start_and_close(path)


def test_a_forked_childs_close_changes_nothing_for_the_parent(path, owner):
    with owner.fork() as child:
        child.do("guard.close()")
        assert child.value("guard.closed and sock.fileno()") == -1
    assert owner.value("guard.closed") is False
    expect_refusal(path)
    assert reaches(path, owner)


def test_a_daemon_that_forked_twice_after_binding_frees_all_at_its_close(path, owner):
    with owner.fork() as leader:
        leader.do("os.setsid()")
        with leader.fork() as daemon:
            for parent in (owner, leader):
                parent.start("os._exit(0)")
                parent.wait()
            expect_refusal(path)
            assert reaches(path, daemon)
            daemon.do("guard.close()")
            assert not os.path.exists(path)
            start_and_close(path)


def test_who_got_the_descriptors_by_scm_rights_keeps_it_all(path, directory, owner):
    with Child() as heir:
        heir.do(
            "door = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)\ndoor.bind(address)",
            address=str(directory / "door"),
        )
        owner.do(
            "door = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)\n"
            "door.connect(address)\n"
            "socket.send_fds(door, [b'.'], [sock.fileno(), guard.fileno()])\n"
            "guard.close()",
            address=str(directory / "door"),
        )
        expect_refusal(path)  # both are held by the message alone
        heir.do("sock, lock = socket.recv_fds(door, 1, 2)[1]\nsock = socket.socket(fileno=sock)")
        expect_refusal(path)
        assert reaches(path, heir)
        heir.kill()
    assert os.path.exists(path)
    start_and_close(path)


@pytest.mark.parametrize(("passed", "why"), [("sock, guard", "taken by"), ("sock,", BOUND)])
def test_who_inherited_the_socket_keeps_the_path_and_with_the_lock_is_its_owner(path, owner, passed, why):
    heir = (
        "import socket, sys\n"
        "sock = socket.socket(fileno=int(sys.argv[1]))\n"
        "sock.settimeout(20)\n"
        "sock.accept()[0].sendall(b'heir')\n"
        "input()"
    )
    owner.do(
        "import subprocess\n"
        "command = [sys.executable, '-c', heir, str(sock.fileno())]\n"
        f"passed = [end.fileno() for end in ({passed})]\n"
        "heir = subprocess.Popen(command, pass_fds=passed, stdin=subprocess.PIPE)\n"
        "guard.close()",
        heir=heir,
    )
    expect_refusal(path, why)
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(path)
        assert client.recv(4) == b"heir"
    expect_refusal(path, why)
    owner.do("heir.kill()\nheir.wait()")
    assert os.path.exists(path)
    start_and_close(path)


@pytest.mark.parametrize("first_thing", ["pass", "guard.close()"])
def test_a_forked_child_that_does_not_serve_holds_on_unless_it_closes_first_thing(path, owner, first_thing):
    with owner.fork() as bystander:
        bystander.do(first_thing)
        owner.kill()
        if first_thing == "pass":
            expect_refusal(path)
            bystander.kill()
        start_and_close(path)


@pytest.mark.parametrize(
    "start",
    [
        "pool = context.Pool(1, initializer=guard.close)\npool.map(abs, [0])",
        "pool = ProcessPoolExecutor(1, context, initializer=guard.close)\npool.submit(abs, 0).result()",
    ],
    ids=["Pool", "ProcessPoolExecutor"],
)
def test_a_process_pool_that_closes_first_thing_holds_nothing(path, owner, start):
    if not os.access("/dev/shm", os.W_OK) and os.path.isdir("/dev/shm"):
        pytest.skip("multiprocessing's locks need /dev/shm")
    owner.do("import multiprocessing\nfrom concurrent.futures import ProcessPoolExecutor")
    owner.do("context = multiprocessing.get_context('fork')\n" + start)
    [worker] = owner.value("[worker.pid for worker in multiprocessing.active_children()]")
    os.kill(worker, signal.SIGSTOP)  # or it would end with its server
    try:
        assert reaches(path, owner)
        owner.kill()
        start_and_close(path)
    finally:
        os.kill(worker, signal.SIGKILL)


def test_a_copy_between_fork_and_exec_holds_on_until_exec_which_a_timeout_covers(path, owner):
    with owner.fork() as spawned:
        owner.do("guard.close()")
        expect_refusal(path)
        spawned.start("os.execlp('sleep', 'sleep', '60')")
        start_and_close(path, timeout=20)


def test_a_thread_blocked_in_accept_keeps_the_path(path):
    if not os.path.exists("/proc/self/syscall"):
        pytest.skip("without /proc it is not seen when a thread has come to accept(2)")
    sock, guard = unixsock.bind_exclusive(path)

    def serve():
        sock.accept()[0].close()

    server = threading.Thread(target=serve, daemon=True)
    server.start()
    inside = False
    while not inside:
        with open(f"/proc/self/task/{server.native_id}/syscall") as call:
            now = call.read()
        inside = f" {sock.fileno():#x} " in now or now.startswith("102 0x12 ")  # the latter is i386's socketcall(2)
    guard.close()
    expect_refusal(path, BOUND)
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(path)
        server.join()
    start_and_close(path)


def wrapped_in_tls(sock):
    return ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).wrap_socket(sock, server_side=True)


def detached(sock):
    return socket.socket(fileno=sock.detach())


@pytest.mark.parametrize("closed_first", [False, True])
@pytest.mark.parametrize("wrap", [wrapped_in_tls, detached, socket.socket.dup])
def test_a_wrapper_that_still_listens_keeps_the_path(path, wrap, closed_first):
    sock, guard = unixsock.bind_exclusive(path)
    with wrap(sock) as wrapper:
        if not closed_first:
            guard.close()
            expect_refusal(path, BOUND)
            assert reaches(path, wrapper)
        wrapper.close()
        guard.close()
    assert os.path.exists(path) == (not closed_first)
    start_and_close(path)


def test_a_socket_closed_first_by_its_server_leaves_the_socket_file_to_the_guard(path):
    sock, guard = unixsock.bind_exclusive(path)
    sock.close()
    assert os.path.exists(path)
    guard.close()
    assert not os.path.exists(path)


@pytest.mark.parametrize("lost", [["socket"], ["lock"], ["socket", "lock"]], ids=" and ".join)
def test_what_was_closed_behind_the_guards_back_is_reported_and_all_else_is_done(path, lost):
    before_start = open_descriptors()
    sock, guard = unixsock.bind_exclusive(path)
    for name in lost:
        os.close({"socket": sock, "lock": guard}[name].fileno())
    with pytest.raises(OSError, match=os.strerror(errno.EBADF)) as caught:
        guard.close()
    assert caught.value.errno == errno.EBADF
    assert caught.value.filename == (path + ".lock" if "lock" in lost else path)
    assert guard.closed
    assert open_descriptors() == before_start
    assert not os.path.exists(path)
    start_and_close(path)


def test_a_lock_closed_behind_the_guards_back_does_not_cost_the_next_owner_its_path(path):
    with Child() as next_owner:
        sock, guard = unixsock.bind_exclusive(path)
        sock.close()
        os.close(guard.fileno())
        next_owner.do(BIND, path=path)
        with pytest.raises(OSError, match=os.strerror(errno.EBADF)):
            guard.close()
        assert reaches(path, next_owner)


@pytest.mark.parametrize("moment", [before, after])
def test_an_interrupted_close_does_its_other_steps(path, moment):
    def interrupt(call):
        if call.args[0] is sock:
            raise KeyboardInterrupt

    with moment("socket.close", interrupt):
        sock, guard = unixsock.bind_exclusive(path)
        with pytest.raises(KeyboardInterrupt):
            guard.close()
    assert sock.fileno() == -1
    assert not os.path.exists(path)
    start_and_close(path)


def test_a_refusal_names_the_owner_for_as_long_as_its_socket_is_open(path):
    refusals = []
    with before("socket.close", lambda _: refusals.append(expect_refusal(path))):
        _, guard = unixsock.bind_exclusive(path)
        guard.close()
    assert [refusal.owner_pid for refusal in refusals] == [os.getpid()]


@pytest.mark.parametrize("files", [["a.sock"], ["a.sock", "a.sock.lock"]])
def test_after_its_files_were_removed_close_leaves_who_is_there_alone(directory, path, files):
    _, guard = unixsock.bind_exclusive(path)
    for file in files:
        os.unlink(directory / file)
    with Child() as other:
        # Without the lock, or, where the lock file is a new one, as its owner.
        without = "sock = socket.socket(socket.AF_UNIX)\nsock.bind(path)\nsock.listen()"
        other.do(without if files == ["a.sock"] else BIND, path=path)
        guard.close()
        assert reaches(path, other)


def test_a_next_owner_between_the_locks_release_and_the_clearing_keeps_the_path(path):
    with Child() as next_owner:
        _, guard = unixsock.bind_exclusive(path)
        with before("os.open", lambda _: next_owner.do(BIND, path=path)):
            guard.close()
        assert reaches(path, next_owner)


def test_a_file_that_somebody_put_in_place_of_the_socket_file_stays(directory, path):
    _, guard = unixsock.bind_exclusive(path)
    os.unlink(path)
    (directory / "a.sock").write_text("precious")
    guard.close()
    assert (directory / "a.sock").read_text() == "precious"


def test_with_the_lock_file_gone_close_makes_none_and_leaves_the_socket_file_to_the_next_owner(directory, path):
    _, guard = unixsock.bind_exclusive(path)
    os.unlink(guard.lock_path)
    guard.close()
    assert os.listdir(directory) == ["a.sock"]
    start_and_close(path)


def test_close_is_quiet_when_the_directory_is_gone(directory):
    (directory / "run").mkdir()
    sock, guard = unixsock.bind_exclusive(directory / "run" / "a.sock")
    shutil.rmtree(directory / "run")
    guard.close()
    assert sock.fileno() == -1


def test_a_socket_file_that_may_not_be_removed_any_more_is_left_to_who_may(path, directory, user):
    directory.chmod(0o777)
    user.do(BIND, path=path)
    directory.chmod(0o555)
    user.do("guard.close()")
    assert os.path.exists(path)
    directory.chmod(0o755)
    start_and_close(path)


def test_a_closer_leaves_even_a_stale_socket_file_to_a_sibling_that_holds_the_lock(path, owner):
    with owner.fork() as sibling:
        for process in (owner, sibling):
            process.do("sock.close()")
        owner.do("guard.close()")
        assert os.path.exists(path)
        sibling.do("guard.close()")
        assert not os.path.exists(path)


# It says when it has come to a call, or to its end, and waits for a word before the call.
SLOWER = """
from system_calls import before
def wait(_):
    os.write(arrived[1], b".")
    os.read(go[0], 1)
with before(call, wait):
    guard.close()
os.write(arrived[1], b".")
"""


@pytest.mark.parametrize("call", ["os.open", "os.unlink"])
def test_the_slower_of_two_forked_closers_spares_what_a_server_without_the_lock_has_bound_since(path, owner, call):
    owner.do("arrived, go = os.pipe(), os.pipe()")
    with owner.fork() as faster, socket.socket(socket.AF_UNIX) as other:
        for process in (owner, faster):
            process.do("sock.close()")
        owner.start(SLOWER, call=call)
        faster.do("os.read(arrived[0], 1)")
        faster.do("guard.close()")
        other.bind(path)  # it is free
        other.listen()
        faster.do("os.write(go[1], b'.')")
        owner.answer()
        assert reaches(path, other)


def in_another_thread(call):
    thread = threading.Thread(target=call)
    thread.start()
    thread.join()


def in_a_signal_handler(call):
    usual = signal.signal(signal.SIGUSR1, lambda *_: call())
    signal.raise_signal(signal.SIGUSR1)
    signal.signal(signal.SIGUSR1, usual)


@pytest.mark.parametrize("elsewhere", [in_another_thread, in_a_signal_handler])
def test_a_second_close_inside_the_first_closes_no_descriptor_twice(path, elsewhere):
    closed = []

    def close_again_before_each(call):
        if call.name in ("socket.close", "os.close") and call.args[0] in held:
            closed.append(call.args[0])
            if closed.count(call.args[0]) == 1:
                elsewhere(guard.close)
        if call.name == "os.open" and closed:
            raise FileNotFoundError(errno.ENOENT, "no lock")  # or it would open, and close, numbers that are free again
        return call.run()

    held = []
    with intercepted(close_again_before_each):
        sock, guard = unixsock.bind_exclusive(path)
        held += [sock, guard.fileno()]
        with contextlib.suppress(OSError):  # of a number that is closed twice
            guard.close()
    assert closed == held


def test_a_signal_handler_may_close_under_a_blocked_accept(path, owner):
    owner.do("signal.signal(signal.SIGTERM, lambda *_: guard.close())")
    owner.start("sock.accept()")
    os.kill(owner.pid, signal.SIGTERM)
    with pytest.raises(ChildError) as failure:
        owner.answer()
    assert failure.value.errno == errno.EBADF
    start_and_close(path)
