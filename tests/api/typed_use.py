"""What a type checker says of each way to use the package. Checked by mypy and pyright, both strict; never run.

An ignored error is one that has to be there: both complain of an ignore that is not needed.
"""

from __future__ import annotations

import os
import socket
from pathlib import Path

from typing_extensions import assert_type  # mypy knows it under every Python; typing has it from 3.11 on

import unixsock


def a_path_in_each_of_its_forms(either: str | bytes) -> None:
    assert_type(unixsock.bind_exclusive("/run/a.sock"), tuple[socket.socket, unixsock.Guard])
    unixsock.bind_exclusive(b"/run/a.sock")
    unixsock.bind_exclusive(Path("/run/a.sock"))
    unixsock.bind_exclusive(either)
    for entry in os.scandir(b"/run"):
        unixsock.bind_exclusive(entry)
    unixsock.bind_exclusive(3)  # type: ignore[arg-type]
    unixsock.bind_exclusive(None)  # type: ignore[arg-type]
    unixsock.bind_exclusive()  # type: ignore[call-arg]


def a_name_in_each_of_its_forms(either: str | bytes) -> None:
    assert_type(unixsock.bind_abstract("com.example.app"), tuple[socket.socket, unixsock.Guard])
    unixsock.bind_abstract(b"com.example.app")
    unixsock.bind_abstract(either)
    unixsock.bind_abstract(Path("com.example.app"))  # type: ignore[arg-type]


def each_option(length: int | None, seconds: float | None) -> None:
    unixsock.bind_exclusive("a", type=socket.SOCK_SEQPACKET, mode=0o660, backlog=5, timeout=2.5)
    unixsock.bind_exclusive("a", type=1, mode=None, backlog=None, timeout=None)
    unixsock.bind_exclusive("a", mode=length, backlog=length, timeout=seconds)
    unixsock.bind_exclusive("a", mode=0o660, group="www-data")
    unixsock.bind_exclusive("a", mode=0o660, group=length)
    unixsock.bind_exclusive("a", mode=0o660, group=b"www-data")  # type: ignore[arg-type]
    unixsock.bind_abstract("a", group="www-data")  # type: ignore[call-arg]
    unixsock.bind_exclusive("a", type="stream")  # type: ignore[arg-type]
    unixsock.bind_exclusive("a", mode="rw")  # type: ignore[arg-type]
    unixsock.bind_exclusive("a", backlog=2.5)  # type: ignore[arg-type]
    unixsock.bind_exclusive("a", timeout="2")  # type: ignore[arg-type]
    unixsock.bind_exclusive("a", socket.SOCK_DGRAM)  # type: ignore[call-arg]

    unixsock.bind_abstract("a", type=socket.SOCK_DGRAM, backlog=5, timeout=2.5)
    unixsock.bind_abstract("a", backlog=length, timeout=seconds)
    unixsock.bind_abstract("a", mode=0o660)  # type: ignore[call-arg]
    unixsock.bind_abstract("a", socket.SOCK_DGRAM)  # type: ignore[call-arg]


def the_guard(guard: unixsock.Guard) -> int:
    assert_type(guard.address, str)
    assert_type(guard.lock_path, str | None)
    assert_type(guard.closed, bool)
    assert_type(guard.fileno(), int)
    guard.address = "b"  # type: ignore[misc]
    guard.lock_path = None  # type: ignore[misc]
    guard.closed = True  # type: ignore[misc]
    with guard as entered:
        assert_type(entered, unixsock.Guard)
        return guard.fileno()  # and nothing after the block, for the guard lets every exception through


def no_way_to_make_a_guard() -> None:
    unixsock.Guard()  # type: ignore[call-arg]


def the_error(path: str) -> int | None:
    try:
        unixsock.bind_exclusive(path)
    except unixsock.AddressInUseError as error:
        as_os_error: OSError = error
        assert_type(error.owner_pid, int | None)
        return as_os_error.errno or error.owner_pid
    except OSError:
        return None
    return 0
