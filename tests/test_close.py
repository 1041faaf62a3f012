"""Every row of the close table: the name and the lock live until the last process that holds them lets go."""

import os

import unixsock
from children import Child


def test_a_killed_owner_leaves_a_dead_name_that_the_next_start_clears(path):
    with Child() as owner:
        owner.do("sock, guard = unixsock.bind_exclusive(path)", path=path)
        owner.kill()
    assert os.path.exists(path)
    unixsock.bind_exclusive(path)[1].close()


def test_a_forked_childs_close_changes_nothing_for_the_parent(path):
    with Child() as parent:
        parent.do("sock, guard = unixsock.bind_exclusive(path)", path=path)
        with parent.fork() as child:
            child.do("guard.close()")
        assert parent.value("guard.closed") is False
        assert os.path.exists(path)
