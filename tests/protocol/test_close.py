"""Every row of the close table: the name and the lock live until the last process that holds them lets go."""

import errno
import os
import select
import shutil
import signal
import socket
import ssl
import threading

import pytest

import unixsock
from children import Child, ChildError

BIND = "sock, guard = unixsock.bind_exclusive(path)"


def close(child):
    child.do("guard.close()")


def refused(path, why="taken by"):
    """A new start is refused, for the lock's sake unless another reason is given."""
    with pytest.raises(unixsock.AddressInUseError, match=why):
        unixsock.bind_exclusive(path)


def serves(child, path):
    """Whether a client of `path` is served by that child's `sock`."""
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(path)
        child.do("with sock.accept()[0] as served: served.sendall(str(os.getpid()).encode())")
        return client.recv(16) == str(child.pid).encode()


def reaches(path, server):
    """Whether a client of `path` reaches the listening `server`."""
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(path)
        return server in select.select([server], [], [], 0)[0]


def test_the_only_owner_closes_and_name_and_lock_are_free(path):
    with Child() as owner:
        owner.do(BIND, path=path)
        owner.do("guard.close()")
        assert os.listdir(os.path.dirname(path)) == ["a.sock.lock"]
        unixsock.bind_exclusive(path)[1].close()


def test_a_killed_owner_leaves_a_dead_name_that_the_next_start_clears(path):
    with Child() as owner:
        owner.do(BIND, path=path)
        owner.kill()
    assert os.path.exists(path)
    unixsock.bind_exclusive(path)[1].close()


def test_a_forked_childs_close_changes_nothing_for_the_parent(path):
    with Child() as parent:
        parent.do(BIND, path=path)
        with parent.fork() as child:
            child.do("guard.close()")
        assert parent.value("guard.closed") is False
        refused(path)
        assert serves(parent, path)


@pytest.mark.parametrize("leave", [close, Child.kill])
def test_forked_workers_keep_name_and_lock_until_the_last_is_gone(path, leave):
    with Child() as parent:
        parent.do(BIND, path=path)
        with parent.fork() as first, parent.fork() as last:
            leave(parent)
            refused(path)
            assert serves(first, path)
            leave(first)
            refused(path)
            assert serves(last, path)
            leave(last)
        assert os.path.exists(path) == (leave is Child.kill)
        unixsock.bind_exclusive(path)[1].close()


def test_a_daemon_that_forked_twice_after_binding_frees_all_at_its_close(path):
    with Child() as command:
        command.do(BIND, path=path)
        with command.fork() as leader:
            leader.do("os.setsid()")
            with leader.fork() as daemon:
                for parent in (command, leader):
                    parent.start("os._exit(0)")
                    parent.wait()
                refused(path)
                assert serves(daemon, path)
                daemon.do("guard.close()")
                assert not os.path.exists(path)
                unixsock.bind_exclusive(path)[1].close()


def test_who_got_the_descriptors_by_scm_rights_keeps_it_all(path, directory):
    door = str(directory / "door")
    with Child() as first, Child() as heir:
        heir.do("door = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)\ndoor.bind(address)", address=door)
        first.do(BIND, path=path)
        first.do(
            "door = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)\n"
            "door.connect(address)\n"
            "socket.send_fds(door, [b'.'], [sock.fileno(), guard.fileno()])\n"
            "guard.close()",
            address=door,
        )
        refused(path)  # both are held by the message alone
        heir.do("sock, lock = socket.recv_fds(door, 1, 2)[1]\nsock = socket.socket(fileno=sock)")
        refused(path)
        assert serves(heir, path)
        heir.kill()
    assert os.path.exists(path)
    unixsock.bind_exclusive(path)[1].close()


def test_who_got_the_socket_without_the_lock_keeps_the_name_as_any_server_does(path):
    worker = "input()"  # as one that multiprocessing spawns
    with Child() as first:
        first.do(BIND, path=path)
        first.do(
            "import subprocess\n"
            "command = [sys.executable, '-c', worker]\n"
            "worker = subprocess.Popen(command, pass_fds=[sock.fileno()], stdin=subprocess.PIPE)\n"
            "guard.close()",
            worker=worker,
        )
        with pytest.raises(unixsock.AddressInUseError, match="a socket is still bound") as refusal:
            unixsock.bind_exclusive(path)
        assert refusal.value.owner_pid is None
        first.do("worker.kill()\nworker.wait()")
        unixsock.bind_exclusive(path)[1].close()


def test_who_inherited_the_descriptors_keeps_it_all(path):
    heir = (
        "import socket, sys\n"
        "sock = socket.socket(fileno=int(sys.argv[1]))\n"
        "sock.settimeout(20)\n"
        "sock.accept()[0].sendall(b'heir')\n"
        "input()"
    )
    with Child() as first:
        first.do(BIND, path=path)
        first.do(
            "import subprocess\n"
            "passed = sock.fileno(), guard.fileno()\n"
            "command = [sys.executable, '-c', heir, str(sock.fileno())]\n"
            "heir = subprocess.Popen(command, pass_fds=passed, stdin=subprocess.PIPE)\n"
            "guard.close()",
            heir=heir,
        )
        refused(path)
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(path)
            assert client.recv(4) == b"heir"
        refused(path)
        first.do("heir.kill()\nheir.wait()")
        assert os.path.exists(path)
        unixsock.bind_exclusive(path)[1].close()


def test_a_forked_child_that_does_not_serve_holds_on_when_its_server_was_killed(path):
    with Child() as server:
        server.do(BIND, path=path)
        with server.fork() as bystander:
            server.kill()
            refused(path)
            bystander.kill()
        unixsock.bind_exclusive(path)[1].close()


def test_a_forked_child_that_closed_first_thing_holds_nothing(path):
    with Child() as server:
        server.do(BIND, path=path)
        with server.fork() as bystander:
            bystander.do("guard.close()")
            server.kill()
            unixsock.bind_exclusive(path)[1].close()


@pytest.mark.parametrize(
    "start",
    [
        "pool = context.Pool(1, initializer=guard.close)\npool.map(abs, [0])",
        "pool = ProcessPoolExecutor(1, context, initializer=guard.close)\npool.submit(abs, 0).result()",
    ],
    ids=["Pool", "ProcessPoolExecutor"],
)
def test_a_process_pool_that_closes_first_thing_holds_nothing(path, start):
    with Child() as server:
        server.do(BIND, path=path)
        server.do("import multiprocessing\nfrom concurrent.futures import ProcessPoolExecutor")
        server.do("context = multiprocessing.get_context('fork')\n" + start)
        [worker] = server.value("[worker.pid for worker in multiprocessing.active_children()]")
        os.kill(worker, signal.SIGSTOP)  # or it would end with its server
        try:
            assert serves(server, path)
            server.kill()
            unixsock.bind_exclusive(path)[1].close()
        finally:
            os.kill(worker, signal.SIGKILL)


def test_a_copy_between_fork_and_exec_holds_on_until_exec_which_a_timeout_covers(path):
    with Child() as owner:
        owner.do(BIND, path=path)
        with owner.fork() as spawned:
            owner.do("guard.close()")
            refused(path)
            spawned.start("os.execlp('sleep', 'sleep', '60')")
            unixsock.bind_exclusive(path, timeout=20)[1].close()


@pytest.mark.skipif(not os.path.exists("/proc/self/syscall"), reason="nobody tells where a thread is")
def test_a_thread_blocked_in_accept_keeps_the_name(path):
    sock, guard = unixsock.bind_exclusive(path)

    def serve():
        sock.accept()[0].close()

    server = threading.Thread(target=serve, daemon=True)
    server.start()
    first_argument = f" {sock.fileno():#x} "
    while True:  # until the thread is inside accept(2)
        with open(f"/proc/self/task/{server.native_id}/syscall") as call:
            if first_argument in call.read():
                break
    guard.close()
    refused(path, "a socket is still bound")
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(path)
        server.join()
    unixsock.bind_exclusive(path)[1].close()


def wrapped_in_tls(sock):
    return ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).wrap_socket(sock, server_side=True)


def detached(sock):
    return socket.socket(fileno=sock.detach())


@pytest.mark.parametrize("wrap", [wrapped_in_tls, detached, socket.socket.dup])
def test_a_wrapper_that_still_listens_keeps_the_name(path, wrap):
    sock, guard = unixsock.bind_exclusive(path)
    with wrap(sock) as wrapper:
        guard.close()
        refused(path, "a socket is still bound")
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(path)
        wrapper.close()
        unixsock.bind_exclusive(path)[1].close()


@pytest.mark.parametrize("wrap", [wrapped_in_tls, detached, socket.socket.dup])
def test_a_wrapper_closed_before_the_guard_leaves_nothing(path, wrap):
    sock, guard = unixsock.bind_exclusive(path)
    wrap(sock).close()
    guard.close()
    assert os.listdir(os.path.dirname(path)) == ["a.sock.lock"]
    unixsock.bind_exclusive(path)[1].close()


def test_a_socket_closed_first_by_its_server_leaves_the_name_to_the_guard(path):
    sock, guard = unixsock.bind_exclusive(path)
    sock.close()
    assert os.path.exists(path)
    guard.close()
    assert not os.path.exists(path)
    unixsock.bind_exclusive(path)[1].close()


def test_a_socket_closed_behind_pythons_back_is_reported_and_all_else_is_done(path):
    sock, guard = unixsock.bind_exclusive(path)
    os.close(sock.fileno())
    with pytest.raises(OSError, match="Bad file descriptor") as caught:
        guard.close()
    assert (caught.value.errno, caught.value.filename) == (errno.EBADF, path)
    assert guard.closed
    assert not os.path.exists(path)
    unixsock.bind_exclusive(path)[1].close()


def test_a_lock_closed_behind_the_guards_back_is_reported_and_all_else_is_done(path):
    sock, guard = unixsock.bind_exclusive(path)
    os.close(guard.fileno())
    with pytest.raises(OSError, match="Bad file descriptor") as caught:
        guard.close()
    assert (caught.value.errno, caught.value.filename) == (errno.EBADF, path + ".lock")
    assert sock.fileno() == -1
    assert not os.path.exists(path)


def test_a_lock_closed_behind_the_guards_back_does_not_cost_the_next_owner_his_name(path):
    with Child() as next_owner:
        sock, guard = unixsock.bind_exclusive(path)
        sock.close()
        os.close(guard.fileno())
        next_owner.do(BIND, path=path)
        with pytest.raises(OSError, match="Bad file descriptor"):
            guard.close()
        assert serves(next_owner, path)


def test_both_descriptors_closed_behind_the_guards_back_the_name_is_still_cleared(path):
    sock, guard = unixsock.bind_exclusive(path)
    os.close(sock.fileno())
    os.close(guard.fileno())
    with pytest.raises(OSError, match="Bad file descriptor"):
        guard.close()
    assert not os.path.exists(path)


def test_an_interrupted_close_does_its_other_steps(path, monkeypatch):
    sock, guard = unixsock.bind_exclusive(path)
    close = socket.socket.close

    def interrupted(closing):
        close(closing)
        if closing is sock:
            raise KeyboardInterrupt

    monkeypatch.setattr(socket.socket, "close", interrupted)
    with pytest.raises(KeyboardInterrupt):
        guard.close()
    assert not os.path.exists(path)
    unixsock.bind_exclusive(path)[1].close()


def test_a_server_without_the_lock_that_took_the_path_keeps_it(path):
    _, guard = unixsock.bind_exclusive(path)
    os.unlink(path)
    with socket.socket(socket.AF_UNIX) as stranger:
        stranger.bind(path)
        stranger.listen()
        guard.close()
        assert reaches(path, stranger)


def test_a_next_owner_between_the_locks_release_and_the_clearing_keeps_the_name(path, monkeypatch):
    claim = unixsock._guard.claim
    with Child() as next_owner:
        _, guard = unixsock.bind_exclusive(path)

        def late_claim(*arguments, **options):
            next_owner.do(BIND, path=path)
            return claim(*arguments, **options)

        monkeypatch.setattr(unixsock._guard, "claim", late_claim)
        guard.close()
        assert serves(next_owner, path)


def test_a_file_that_somebody_put_in_the_names_place_stays(path):
    _, guard = unixsock.bind_exclusive(path)
    os.unlink(path)
    with open(path, "w") as file:
        file.write("precious")
    guard.close()
    with open(path) as file:
        assert file.read() == "precious"


def test_after_both_files_were_removed_close_leaves_the_new_owner_alone(path):
    _, guard = unixsock.bind_exclusive(path)
    os.unlink(path)
    os.unlink(guard.lock_path)
    with Child() as new_owner:
        new_owner.do(BIND, path=path)
        inode = os.stat(path).st_ino
        guard.close()
        assert os.stat(path).st_ino == inode
        assert serves(new_owner, path)
        refused(path)


def test_with_the_lock_file_gone_close_makes_none_and_leaves_the_name_to_the_next_start(path):
    _, guard = unixsock.bind_exclusive(path)
    os.unlink(guard.lock_path)
    guard.close()
    assert os.listdir(os.path.dirname(path)) == ["a.sock"]
    unixsock.bind_exclusive(path)[1].close()


def test_close_is_quiet_when_the_directory_is_gone(directory):
    (directory / "run").mkdir()
    sock, guard = unixsock.bind_exclusive(directory / "run" / "a.sock")
    shutil.rmtree(directory / "run")
    guard.close()
    assert sock.fileno() == -1


def test_a_name_that_may_not_be_removed_any_more_is_left_to_who_may(path, directory, user):
    directory.chmod(0o777)
    user.do(BIND, path=path)
    directory.chmod(0o555)
    user.do("guard.close()")
    assert os.path.exists(path)
    directory.chmod(0o755)
    unixsock.bind_exclusive(path)[1].close()
    assert not os.path.exists(path)


def test_a_closer_leaves_even_a_dead_name_to_a_sibling_that_holds_the_lock(path):
    with Child() as parent:
        parent.do(BIND, path=path)
        with parent.fork() as sibling:
            for process in (parent, sibling):
                process.do("sock.close()")
            parent.do("guard.close()")
            assert os.path.exists(path)
            sibling.do("guard.close()")
            assert not os.path.exists(path)


def test_the_slower_of_two_forked_closers_spares_what_a_stranger_has_bound_since(path):
    with Child() as slower, socket.socket(socket.AF_UNIX) as stranger:
        slower.do(BIND, path=path)
        slower.do("waiting, go = os.pipe(), os.pipe()")
        with slower.fork() as faster:
            slower.do(
                "claim = unixsock._guard.claim\n"
                "def late_claim(*arguments, **options):\n"
                "    os.write(waiting[1], b'.')\n"
                "    os.read(go[0], 1)\n"
                "    return claim(*arguments, **options)\n"
                "unixsock._guard.claim = late_claim"
            )
            slower.start("guard.close()")
            faster.do("os.read(waiting[0], 1)")
            faster.do("guard.close()")
            stranger.bind(path)  # the name is free
            stranger.listen()
            faster.do("os.write(go[1], b'.')")
            slower.answer()
            assert reaches(path, stranger)


def in_another_thread(call):
    thread = threading.Thread(target=call)
    thread.start()
    thread.join()


def in_a_signal_handler(call):
    before = signal.signal(signal.SIGUSR1, lambda *_: call())
    signal.raise_signal(signal.SIGUSR1)
    signal.signal(signal.SIGUSR1, before)


@pytest.mark.parametrize("elsewhere", [in_another_thread, in_a_signal_handler])
def test_a_second_close_inside_the_first_closes_no_descriptor_twice(path, monkeypatch, elsewhere):
    sock, guard = unixsock.bind_exclusive(path)
    numbers = [sock.fileno(), guard.fileno()]
    closed = []

    def interrupted(close, number_of):
        def closing(what):
            closed.append(number_of(what))
            if closed.count(closed[-1]) == 1:
                elsewhere(guard.close)
            close(what)

        return closing

    def claim(*arguments, **options):
        raise FileNotFoundError(errno.ENOENT, "gone")  # the real one opens and closes numbers of its own

    monkeypatch.setattr(unixsock._guard, "claim", claim)
    monkeypatch.setattr(socket.socket, "close", interrupted(socket.socket.close, socket.socket.fileno))
    monkeypatch.setattr(os, "close", interrupted(os.close, int))
    guard.close()
    assert closed == numbers


def test_a_signal_handler_may_close_under_a_blocked_accept(path):
    with Child() as server:
        server.do(BIND, path=path)
        server.do("signal.signal(signal.SIGTERM, lambda *_: guard.close())")
        server.start("sock.accept()")
        os.kill(server.pid, signal.SIGTERM)
        with pytest.raises(ChildError, match="Bad file descriptor"):
            server.answer()
        assert not os.path.exists(path)
        unixsock.bind_exclusive(path)[1].close()
