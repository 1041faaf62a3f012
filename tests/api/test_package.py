"""What the package shows, and what importing it costs."""

import subprocess
import sys
from pathlib import Path

import pytest

import unixsock
from children import PATIENCE
from observed import imported_anew

PACKAGE = Path(unixsock.__file__).parent
NAMES = ["AddressInUseError", "Guard", "bind_abstract", "bind_exclusive"]


def fresh(code):
    """What `code` prints in a new interpreter that has nothing but its own library and this package to import."""
    program = f"import sys; sys.path.insert(0, {str(PACKAGE.parent)!r})\n{code}"
    printed = subprocess.check_output([sys.executable, "-I", "-S", "-c", program], text=True, timeout=PATIENCE)
    return printed.splitlines()


def test_four_names_are_public():
    assert sorted(unixsock.__all__) == NAMES
    assert sorted(name for name in vars(unixsock) if not name.startswith("_")) == NAMES


def test_the_public_classes_go_by_their_public_names():
    public = [f"{kind.__module__}.{kind.__qualname__}" for kind in (unixsock.Guard, unixsock.AddressInUseError)]
    assert public == ["unixsock.Guard", "unixsock.AddressInUseError"]


def test_importing_brings_in_nothing_beyond_modules_that_every_server_has_loaded():
    brought = fresh("""
import collections.abc, fcntl, grp, io, math, operator, socket
loaded = set(sys.modules)
import unixsock
print(*set(sys.modules) - loaded, sep="\\n")
""")
    assert "unixsock" in brought
    assert {name for name in brought if name.partition(".")[0] != "unixsock"} <= {"__future__"}


def test_without_fcntl_the_import_error_says_what_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "fcntl", None)
    with pytest.raises(ImportError, match=r"flock.* no fcntl") as refusal:
        imported_anew(monkeypatch)
    assert refusal.value.name == "fcntl"
