"""Schedules: a few actors make their system calls one at a time, in every order.

The actors run real code on the real kernel, each in a thread of its own, and hand on a baton just before a call. One
process is enough: flock(2) tells open file descriptions apart, not processes. When an actor is killed, its code makes
no call any more, and its descriptors are closed, lowest first, a step for each that holds a file.

A schedule has a name: ``bind_and_close+only_bind@stale:0x7,1x3,0!x2`` begins with seven steps of actor 0, then come
three of actor 1, then 0 is killed and closes what it holds in two steps. Whoever is left goes on as it comes.
"""

import contextlib
import errno
import itertools
import os
import queue
import re
import socket
import stat
import threading

import unixsock
from system_calls import Call, close_unseen, intercepted

# What no other actor can notice, and what none can change the outcome of: no turn of another is needed before it. Of an
# open file that is so but for its link count, which the package does not use.
PRIVATE = {"socket.socket", "socket.settimeout", "os.fstat"}

# What changes neither the socket file nor the lock file.
LEAVES_FILES = {*PRIVATE, "os.lstat", "os.close", "fcntl.flock", "socket.connect_ex", "socket.listen", "socket.close"}

# What needs the directory's lock: bind(2) holds it from before its file is there until its socket can be found there.
LOCKS_DIRECTORY = {"os.rename", "os.unlink", "socket.bind", "bind: make the file"}


# The actors that use the package:


def bind_and_stay(run, me):
    with contextlib.suppress(unixsock.AddressInUseError):
        me.sock, me.guard = unixsock.bind_exclusive(run.place.path)


def bind_and_close(run, me):
    bind_and_stay(run, me)
    if me.guard:
        me.guard.close()


# Those without the lock:


def only_bind(run, me):
    sock = run.call("socket.socket", socket.socket, socket.AF_UNIX)
    try:
        # bind(2) in its two halves: a socket file that leads nowhere, then one that leads to the socket.
        run.call("bind: make the file", os.mknod, run.place.path, stat.S_IFSOCK | 0o777)
    except FileExistsError:
        run.call("socket.close", socket.socket.close, sock)
    else:
        run.call("bind: be found", _bind_over, sock, run.place.path)
        run.call("socket.listen", socket.socket.listen, sock)


def unlink_and_bind(run, me):
    with contextlib.suppress(FileNotFoundError):
        run.call("os.unlink", os.unlink, run.place.path)
    only_bind(run, me)


def remove_lock_file(run, me):
    with contextlib.suppress(FileNotFoundError):
        run.call("os.unlink", os.unlink, run.place.lock_path)


def _bind_over(sock, path):
    sock.bind(path + ".new")
    os.rename(path + ".new", path)


OURS = (bind_and_close, bind_and_stay)
WITHOUT_LOCK = (only_bind, unlink_and_bind, remove_lock_file)

STARTS = ("free", "stale", "stale_no_lock_file")


def actors_of(names):
    """Those that a schedule names so, "bind_and_stay+only_bind" for example."""
    does = {does.__name__: does for does in (*OURS, *WITHOUT_LOCK)}
    return [does[name] for name in names.split("+")]


class Killed(BaseException):
    """What each call of an actor raises once it has been killed."""


class Actor:
    def __init__(self, index, does):
        self.index = index
        self.does = does
        self.name = does.__name__
        self.ours = does in OURS
        self.baton = queue.SimpleQueue()
        self.started = self.ended = self.killed = False
        self.next_call = None
        # By number or socket, what each holds: the file that is locked or bound, and whether it listens. As the package
        # opens them, the lowest comes first.
        self.descriptors = {}
        self.sock = self.guard = None  # what bind_exclusive() returned
        self.files = 0  # that it has made
        self.history = 0  # stands for its calls so far and their outcomes, and so for where its code is
        # What those without the lock have done to it:
        self.orphaned = False  # removed its lock file since it locked it
        self.freed = False  # unlinked the socket file after it had looked
        self.lost = False  # unlinked the socket file while it led here

    @property
    def state(self):
        """What its future depends on: its calls and their outcomes; what it holds, once it makes no call any more."""
        if self.killed or self.ended:
            held = tuple([tuple(held) for held in self.descriptors.values()])
            return self.killed, self.owns, held, self.orphaned, self.lost
        return self.history, self.orphaned, self.freed, self.lost

    @property
    def over(self):
        return not self.descriptors if self.killed else self.ended

    @property
    def mortal(self):
        return self.started and not self.killed and not (self.ended and not self.descriptors)

    @property
    def owns(self):
        return self.guard is not None and not self.killed and self.sock in self.descriptors


class Place:
    """A path and its lock file: what stands there, and the faults that must not happen."""

    def __init__(self, directory, start, actors):
        self.path = f"{directory}/a"
        self.lock_path = f"{directory}/a.lock"
        self.actors = actors
        self.live = {}  # by inode, the actor and its socket while that is bound
        self.faults = []
        self.limit = None  # a fault that is known and excused; from there on nothing is promised
        for path in (self.path, self.lock_path):
            if os.path.lexists(path):
                os.unlink(path)
        if start != "free":
            with socket.socket(socket.AF_UNIX) as left:
                left.bind(self.path)
        if start == "stale":
            os.close(os.open(self.lock_path, os.O_CREAT | os.O_RDWR, 0o600))
        self.socket_file, self.lock_file = _inode(self.path), _inode(self.lock_path)
        # Of inodes, the same in each run.
        self.labels = {self.socket_file: "found", self.lock_file: "found", None: None}

    def changed_by(self, actor):
        """See what the call of `actor` has done."""
        previous, self.socket_file = self.socket_file, _inode(self.path)
        if self.socket_file != previous:
            self._made(actor, self.socket_file)
            if self.socket_file is None and not actor.ours:
                for other in self.actors:
                    other.freed = True
            if previous in self.live:
                victim = self.live[previous][0]
                if actor.ours:
                    excused = actor.freed or actor.orphaned or victim.orphaned
                    self._blame(f"{actor.name} unlinked the live socket of {victim.name}", excused=excused)
                else:
                    victim.lost = True
        previous, self.lock_file = self.lock_file, _inode(self.lock_path)
        if self.lock_file != previous:
            self._made(actor, self.lock_file)
            if not actor.ours:
                for other in self.actors:
                    other.orphaned |= any(self.labels[previous] in held for held in other.descriptors.values())

    def check_owners(self):
        owners = [actor for actor in self.actors if actor.owns]
        if len(owners) > 1:
            excused = any(owner.orphaned for owner in owners)
            self._blame(f"two owners: {' and '.join(owner.name for owner in owners)}", excused=excused)
        for owner in owners:
            if not owner.lost and self.live.get(self.socket_file, [None])[0] is not owner:
                self._blame(f"the path of {owner.name} leads elsewhere", excused=False)

    def check_connection(self):
        """A client that connects to the path reaches its owner."""
        for owner in self.actors:
            if owner.owns and not owner.lost and not self.limit and not self.faults:
                owner.sock.settimeout(0)
                try:
                    with socket.socket(socket.AF_UNIX) as client:
                        client.connect(self.path)
                        owner.sock.accept()[0].close()
                except OSError as error:
                    self.faults.append(f"a client does not reach {owner.name}: {error!r}")

    def check_free(self):
        """Once all have gone, the path can be bound again, and the close leaves nothing."""
        try:
            unixsock.bind_exclusive(self.path)[1].close()
        except OSError as error:
            self.faults.append(f"all have gone, and yet the path cannot be bound: {error!r}")
        if os.path.lexists(self.path):
            self.faults.append("all have gone, and yet the socket file is there")

    def _made(self, actor, inode):
        if inode is not None:
            actor.files += 1
            self.labels[inode] = actor.index, actor.files

    def _blame(self, what, *, excused):
        if not self.limit and not self.faults:
            if excused:
                self.limit = what
            else:
                self.faults.append(what)


class Run:
    """One schedule: first the steps `given`, then the actor that runs goes on until it ends.

    A step is an actor's index, and whether it has been killed; the first such step kills it.
    """

    def __init__(self, threads, directory, actors, start, given=(), search=None):
        self.threads = threads
        self.actors = [Actor(index, does) for index, does in enumerate(actors)]
        self.start = start
        self.place = Place(directory, start, self.actors)
        self.given = given
        self.search = search
        self.steps = []
        self.switches = 0
        self.story = []
        self.cut_short = False
        self.finishing = False
        self.baton = queue.SimpleQueue()
        self.running = None  # the actor that has the baton; None: the test
        self.last = None  # the actor that made the last step
        self.binding = None  # the one between the two halves of its bind

    @property
    def name(self):
        order = ",".join(
            f"{index}{'!' if killed else ''}x{len(list(steps))}"
            for (index, killed), steps in itertools.groupby(self.steps)
        )
        return f"{'+'.join(actor.name for actor in self.actors)}@{self.start}:{order}"

    def __str__(self):
        lines = [f"{actor.index} {actor.name}: {call} -> {outcome}" for actor, call, outcome in self.story]
        lines += self.place.faults or [f"known limit: {self.place.limit}" if self.place.limit else "no fault"]
        return "\n  ".join([self.name, *lines]).replace(os.path.dirname(self.place.path) + "/", "")

    def play(self):
        self._hand_over(None)
        self.baton.get()
        self._finish()

    def _finish(self):
        """End all that is left, as the kernel would."""
        self.finishing = True
        self.running = None
        if not self.cut_short:
            self.place.check_connection()
        for actor in self.actors:
            actor.killed = True
            while actor.descriptors:
                self._close_one(actor)
            self.running = actor  # whatever its code still calls raises Killed
            if actor.started and not actor.ended:
                actor.baton.put(None)
                self.baton.get()
            if actor.guard:
                with contextlib.suppress(Killed):
                    actor.guard.close()
        self.running = None
        if not self.cut_short:
            self.place.check_free()

    # What the calls of the actors go through.

    def hook(self, call):
        actor = self.running
        if actor is None:
            return call.run()
        if actor.killed:
            raise Killed
        if call.name == "open":
            raise FileNotFoundError(errno.ENOENT, "no table")  # /proc/locks: slow to read, and about all the machine
        if not self._is_private(actor, call):
            # Who starts has been given the turn for its first call.
            starts = actor.next_call is None
            actor.next_call = call
            if not starts or self._must_wait(actor):
                self._hand_over(actor)
        try:
            result = call.run()
        except OSError as error:
            self._note(actor, call, errno.errorcode[error.errno])
            raise
        self._note(actor, call, result)
        self._follow(actor, call, result)
        return result

    def call(self, name, function, *args):
        return self.hook(Call(name, function, args, {}))

    def _is_private(self, actor, call):
        if call.name in ("os.close", "socket.close"):  # then, what holds neither the path nor the lock
            return not actor.descriptors.get(call.args[0])
        return call.name in PRIVATE

    def _follow(self, actor, call, result):
        if call.name in ("os.open", "socket.socket"):
            actor.descriptors[result] = []
        elif call.name in ("os.close", "socket.close"):
            self._closed(actor, call.args[0])
        elif call.name == "fcntl.flock":
            actor.descriptors[call.args[0]].append(self.place.labels[os.fstat(call.args[0]).st_ino])
        elif call.name == "bind: make the file":
            self.binding = actor
        elif call.name in ("socket.bind", "bind: be found"):
            self.binding = None
            self.place.live[self.place.socket_file] = actor, call.args[0]
            actor.descriptors[call.args[0]].append(self.place.labels[self.place.socket_file])
        elif call.name == "socket.listen":
            actor.descriptors[call.args[0]].append("listens")
        elif call.name == "os.lstat" and call.args[0] == self.place.path:
            actor.freed = False

    def _note(self, actor, call, outcome):
        if call.name not in LEAVES_FILES:
            self.place.changed_by(actor)
        if isinstance(outcome, os.stat_result):
            outcome = stat.S_IFMT(outcome.st_mode), self.place.labels.get(outcome.st_ino)
        elif call.name == "os.open" or not isinstance(outcome, (int, str, bytes)):
            outcome = None
        actor.history = hash((actor.history, call.name, outcome))
        self.story.append((actor, call, outcome))

    def _close_one(self, actor):
        """One step of its end: the lowest descriptor that holds something, and those that hold nothing."""
        later = [descriptor for descriptor, held in actor.descriptors.items() if held][1:]
        numbers = []
        for descriptor in [descriptor for descriptor in actor.descriptors if descriptor not in later]:
            # detach: the socket must not close its number again, which is another file's by then.
            numbers.append(descriptor if isinstance(descriptor, int) else descriptor.detach())
            close_unseen(numbers[-1])
            self._closed(actor, descriptor)
        self.story.append((actor, Call("exit: close", os.close, tuple(numbers), {}), None))

    def _closed(self, actor, descriptor):
        held = actor.descriptors.pop(descriptor, None)
        if held and isinstance(descriptor, int):  # the lock
            actor.orphaned = False
        self.place.live = {inode: bound for inode, bound in self.place.live.items() if bound[1] is not descriptor}

    # Whose turn it is.

    def _hand_over(self, me):
        """Give the baton to the actor of the next step. Returns when `me` has it again, at once if that is `me`."""
        while True:
            self.place.check_owners()
            step = self._choose()
            if step is None:
                self.baton.put(None)
                break
            actor, killed = step
            self.last = actor
            if killed:
                actor.killed = True
                self._close_one(actor)
                continue
            self.running = actor
            if actor is me:
                return
            if actor.started:
                actor.baton.put(None)
            else:
                actor.started = True
                self.threads.run(self._live, actor)
            break
        if me is not None and not me.ended:
            me.baton.get()
            if me.killed:
                raise Killed

    def _live(self, actor):
        try:
            actor.does(self, actor)
        except Killed:
            pass
        except Exception as error:
            self.place.faults.append(f"{actor.name} raised {error!r}")
        actor.ended = True
        if self.finishing:
            self.baton.put(None)
        else:
            self._hand_over(actor)

    def _choose(self):
        """The next step, or None at the end."""
        options = [(actor, actor.killed) for actor in self.actors if self._can_go_on(actor)]
        goes_on = next((option for option in options if option[0] is self.last), None)
        step = goes_on or next(iter(options), None)
        # bind(2) is not killed half-way.
        options += [(actor, True) for actor in self.actors if actor.mortal and actor is not self.binding]
        if len(self.steps) < len(self.given):
            index, killed = self.given[len(self.steps)]
            step = self.actors[index], killed
            if step not in options:
                self.place.faults.append(f"step {len(self.steps)} cannot be made")
                return None
        elif step is None:
            return None
        elif self.search and not self.place.limit and not self.search.branch(self, goes_on, step, options):
            self.cut_short = True
            return None
        self.switches += _is_switch(step, goes_on)
        self.steps.append((step[0].index, step[1]))
        return step

    def _can_go_on(self, actor):
        if actor.over or self._must_wait(actor):
            return False
        # Of those that do the same, the first one starts first.
        return actor.started or all(other.started or other.does != actor.does for other in self.actors[: actor.index])

    def _must_wait(self, actor):
        call = actor.next_call
        if self.binding in (None, actor) or call is None or actor.killed:
            return False
        return call.name in LOCKS_DIRECTORY or (call.name == "os.open" and bool(call.args[1] & os.O_CREAT))


class Search:
    """Plays the schedules of `actors`, each until it ends or comes to where an earlier one has been.

    That is: each actor has had the same outcomes of the same calls, and the same two files stand there, so that the
    same can follow. In this way it sees whatever can happen with so many `switches` away from an actor that could
    have gone on (None: any number), and so many `kills`. `limits` has the name of one schedule for each excused fault.
    """

    def __init__(self, directory, actors, start, *, switches=None, kills=1):
        self.directory = directory
        self.actors = actors
        self.start = start
        self.switches = switches
        self.kills = kills
        self.schedules = 0
        self.limits = {}
        self.faulty = None
        self._playing = None
        # By their switches: who comes to a state first has made the fewest on the way.
        self._to_play = [[()], *([] for _ in range(switches or 0))]
        self._seen = set()

    def run(self):
        """Play them all, or up to the first one with a fault, which is `faulty` then."""
        with _Threads(len(self.actors)) as threads, intercepted(self._hook):
            while any(self._to_play) and not self.faulty:
                steps = next(filter(None, self._to_play)).pop()
                self._playing = run = Run(threads, self.directory, self.actors, self.start, steps, self)
                run.play()
                self.schedules += 1
                if run.place.faults:
                    self.faulty = run
                if run.place.limit:
                    self.limits.setdefault(run.place.limit, run.name)
        return self

    def _hook(self, call):
        return self._playing.hook(call)

    def branch(self, run, goes_on, step, options):
        """Keep what `run` could do instead of `step` for later. False where an earlier run has been already."""
        bounded = self.switches is not None
        state = (
            tuple([actor.state for actor in run.actors]),
            run.place.labels[run.place.socket_file],
            run.place.labels[run.place.lock_file],
            goes_on[0].index if bounded and goes_on else None,  # a switch away from it counts
        )
        if state in self._seen:
            return False
        self._seen.add(state)
        kills = sum(actor.killed for actor in run.actors)
        for other in options:
            actor, killed = other
            switches = run.switches + _is_switch(other, goes_on) if bounded else 0
            if other != step and switches < len(self._to_play) and (actor.killed or not killed or kills < self.kills):
                self._to_play[switches].append((*run.steps, (actor.index, killed)))
        return True


def replay(directory, name):
    """The Run of that name, after it has been played."""
    actors, start, order = re.fullmatch(r"([^@]*)@([^:]*):(.*)", name).groups()
    steps = []
    for index, killed, count in re.findall(r"(\d+)(!?)x(\d+)", order):
        steps += [(int(index), bool(killed))] * int(count)
    actors = actors_of(actors)
    with _Threads(len(actors)) as threads:
        run = Run(threads, directory, actors, start, steps)
        with intercepted(run.hook):
            run.play()
    return run


def _is_switch(step, goes_on):
    """Whether the turn is taken from an actor that could have gone on."""
    return goes_on is not None and step[0] is not goes_on[0]


class _Threads:
    """Kept from run to run: to make new ones takes longer than all their steps."""

    def __init__(self, count):
        self._work = queue.SimpleQueue()
        self._threads = [threading.Thread(target=self._serve, daemon=True) for _ in range(count)]

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, kind, *_):
        for _ in self._threads:
            self._work.put(None)
        if kind is None:  # else an actor may wait for its turn for ever
            for thread in self._threads:
                thread.join()

    def run(self, function, actor):
        self._work.put((function, actor))

    def _serve(self):
        for function, actor in iter(self._work.get, None):
            function(actor)


def _inode(path):
    try:
        return os.lstat(path).st_ino
    except FileNotFoundError:
        return None
