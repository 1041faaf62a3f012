"""The life of a path on each filesystem that UNIXSOCK_FILESYSTEMS names ("tmpfs overlay ext4", for example).

Without that variable: on each that can be mounted here.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from typing import NamedTuple

import pytest

from children import Child, ChildError
from observed import BIND, START

# Each ends up at m, and finds in lower what somebody has left there.
MOUNT = {
    "tmpfs": "mount -t tmpfs none m",
    "overlay": "mkdir upper work; mount -t overlay -o lowerdir=lower,upperdir=upper,workdir=work none m",
    "overlay-of-two": """
        mkdir two; mount -t tmpfs none two; mkdir two/upper two/work
        mount -t overlay -o lowerdir=lower,upperdir=two/upper,workdir=two/work none m
    """,
    "ext4": "truncate -s 16M image; mkfs.ext4 -q image; mount -o loop image m",
    "xfs": "truncate -s 300M image; mkfs.xfs -q image; mount -o loop image m",
    "btrfs": "truncate -s 128M image; mkfs.btrfs -q image; mount -o loop image m",
    "fuse": "bindfs lower m",
}
IN_MEMORY = "PATH=$PATH:/usr/sbin:/sbin; mount -t tmpfs none {0}; cd {0}; mkdir m lower; "
UNSHARE = ["unshare", "--mount"] if os.geteuid() == 0 else ["unshare", "--mount", "--map-root-user"]


def possible():
    """Each filesystem that a mount namespace of its own may have here."""
    tried = subprocess.DEVNULL
    for name in MOUNT if shutil.which(UNSHARE[0]) else ():
        script = IN_MEMORY.format("/tmp") + MOUNT[name] + "\numount m"
        if subprocess.run([*UNSHARE, "sh", "-ec", script], stdout=tried, stderr=tried, check=False).returncode == 0:
            yield name


FILESYSTEMS = os.environ.get("UNIXSOCK_FILESYSTEMS", "").split() or list(possible())
assert MOUNT.keys() >= set(FILESYSTEMS), f"UNIXSOCK_FILESYSTEMS: known are {' '.join(MOUNT)}"
if not FILESYSTEMS:
    pytest.skip("may not mount here, not even in a namespace", allow_module_level=True)

# Here a file's device number in stat(2) is not the one in /proc/locks.
OWNER_UNKNOWN = ("overlay-of-two", "btrfs")

SERVE_ITSELF = """
with socket.socket(socket.AF_UNIX) as client:
    client.connect(guard.address)
    served, _ = sock.accept()
    with served:
        client.sendall(b"ping")
        _ = served.recv(4).decode()
"""

RACE = """
import threading
together = threading.Barrier(8)
won, lost = [], []
def start():
    together.wait()
    try:
        won.append(unixsock.bind_exclusive(path))
    except unixsock.AddressInUseError as error:
        lost.append(error)
threads = [threading.Thread(target=start) for _ in range(8)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
_ = [len(won), len(lost)]
"""

SHELL = """
import subprocess
nothing, pipe = subprocess.DEVNULL, subprocess.PIPE
done = subprocess.run(["sh", "-ec", script], cwd=cwd, stdin=nothing, stdout=nothing, stderr=pipe, text=True)
_ = done.stderr.strip() if done.returncode else None
"""


class Mounted(NamedTuple):
    name: str
    place: str
    process: Child


@pytest.fixture(scope="module", params=FILESYSTEMS)
def mounted(request):
    """A filesystem that one process sees, and those that it forks: it is gone when they are, however this run ends."""
    name = request.param
    child = Child(*UNSHARE[1:], "--", sys.executable, executable=shutil.which(UNSHARE[0]))
    with tempfile.TemporaryDirectory(prefix="us-", dir="/tmp") as directory, child as process:

        def shell(script):
            complaint = process.do(SHELL, script=script, cwd=directory)
            assert complaint is None, complaint

        place = directory + "/m"
        shell(IN_MEMORY.format(directory))
        with process.fork() as killed:
            killed.do(BIND, path=directory + "/lower/left.sock")
        shell("PATH=$PATH:/usr/sbin:/sbin; " + MOUNT[name])
        # A filesystem in user space is served by a process, which would outlive the namespace.
        process.do("import atexit; atexit.register(subprocess.run, ['umount', place])", place=place)
        yield Mounted(name, place, process)
        shell("umount m")


@pytest.fixture
def path(mounted):
    """Where nothing stands yet, on that filesystem."""
    return mounted.process.value("__import__('tempfile').mkdtemp(dir=place)", place=mounted.place) + "/a.sock"


def test_a_second_process_is_refused_and_told_the_owner_if_the_system_reports_it(mounted, path):
    with mounted.process.fork() as owner, mounted.process.fork() as second:
        owner.do(BIND, path=path)
        refusal, pid = second.do(START, path=path)
        assert refusal == "refused"
        assert pid == owner.pid or (pid is None and mounted.name in OWNER_UNKNOWN)
        assert owner.do(SERVE_ITSELF) == "ping"


def test_a_killed_owner_leaves_a_stale_socket_file_that_the_next_owner_clears(mounted, path):
    with mounted.process.fork() as owner:
        owner.do(BIND, path=path)
        lock_file = owner.value("os.fstat(guard.fileno()).st_ino")
        owner.kill()
    with mounted.process.fork() as successor:
        assert successor.value("os.path.exists(path)", path=path)
        successor.do(BIND)
        assert successor.do(SERVE_ITSELF) == "ping"
        assert successor.value("os.fstat(guard.fileno()).st_ino") == lock_file
        successor.do("guard.close()")
        assert successor.value("os.listdir(os.path.dirname(path))") == ["a.sock.lock"]


@pytest.mark.parametrize("kind", ["SOCK_STREAM", "SOCK_SEQPACKET", "SOCK_DGRAM"])
def test_a_server_without_the_lock_keeps_its_path(mounted, path, kind):
    with mounted.process.fork() as server, mounted.process.fork() as starter:
        server.do("sock = socket.socket(socket.AF_UNIX, getattr(socket, kind)); sock.bind(path)", path=path, kind=kind)
        inode = server.value("os.stat(path).st_ino")
        assert starter.do(START, path=path) == ["refused", None]
        assert server.value("os.stat(path).st_ino") == inode


@pytest.mark.parametrize(("umask", "mode"), [(0o077, 0o666), (0o000, 0o600)], ids=oct)
def test_the_mode_is_exact_whatever_the_umask(mounted, path, umask, mode):
    with mounted.process.fork() as owner:
        owner.do("os.umask(umask)", umask=umask)
        owner.do("sock, guard = unixsock.bind_exclusive(path, mode=mode)", path=path, mode=mode)
        assert owner.value("os.stat(path).st_mode & 0o777") == mode


def only(*names):
    """Those of the filesystems, or a skip with its reason."""
    none = pytest.param(names[0], marks=pytest.mark.skip(reason=f"no {' or '.join(names)} here"))
    found = [name for name in FILESYSTEMS if name in names]
    return pytest.mark.parametrize("mounted", found or [none], indirect=True)


@only("fuse")
def test_where_the_filesystem_ignores_chmod_and_chown_another_mode_or_group_is_an_error(mounted):
    script = "mkdir m/fixed; bindfs -p 0777 -g 0 --chown-ignore m/fixed m/fixed"
    assert mounted.process.do(SHELL, script=script, cwd=os.path.dirname(mounted.place)) is None
    with mounted.process.fork() as owner:
        with pytest.raises(ChildError, match="0o777, not 0o600") as refusal:
            owner.do("unixsock.bind_exclusive(path, mode=0o600)", path=mounted.place + "/fixed/a.sock")
        assert refusal.value.kind == "PermissionError"
        if os.geteuid() == 0:  # else the namespace maps no other group
            with pytest.raises(ChildError, match="group stays 0, not 61002") as refusal:
                owner.do("unixsock.bind_exclusive(path, mode=0o777, group=61002)")
            assert refusal.value.kind == "PermissionError"
        assert owner.value("os.listdir(os.path.dirname(path))") == ["a.sock.lock"]
        owner.do("unixsock.bind_exclusive(path, mode=0o777)[1].close()")
    assert mounted.process.do(SHELL, script="umount m/fixed", cwd=os.path.dirname(mounted.place)) is None


def test_of_eight_threads_that_start_at_once_on_a_stale_socket_file_one_wins(mounted, path):
    with mounted.process.fork() as killed:
        killed.do(BIND, path=path)
    with mounted.process.fork() as starters:
        assert starters.do(RACE, path=path) == [1, 7]


@only(*(name for name in MOUNT if "lower" in MOUNT[name]))
def test_a_stale_socket_file_from_before_the_mount_is_cleared(mounted):
    path = mounted.place + "/left.sock"
    with mounted.process.fork() as starters:
        assert starters.value("os.path.exists(path) and os.path.exists(path + '.lock')", path=path)
        assert starters.do(RACE) == [1, 7]
