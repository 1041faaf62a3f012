"""docs/comparison.md says what its script measures: of unixsock, and of three ways that need no installation."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "comparison.md").read_text(encoding="utf-8")

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the script asks /proc/net/unix who listens")


def rows(text):
    """Each way's cells; of the rounds, which come out differently each time, whether all of them were won."""
    found = {}
    for line in text.splitlines():
        label, *cells = line.strip("| ").split(" | ")
        if len(cells) == 8 and label not in {"way", "---"}:
            found[label] = [re.sub(r"^(\d+)/(\d+)$", lambda won: str(won[1] == won[2]), cell) for cell in cells]
    return found


DOCUMENTED = rows(PAGE)


@pytest.fixture(scope="module")
def measured():
    """What the page's command prints when it is asked for these ways, in few rounds."""
    [command] = re.findall(r"^```sh\n(.*)\n```$", PAGE, re.MULTILINE)
    # python3 is the Python under test where that goes by this name.
    search = os.path.dirname(sys.executable) + os.pathsep + os.environ["PATH"]
    run = subprocess.run(
        ["sh", "-c", f"{command} --rounds 2 unixsock asyncio unlink-bind bind-unlink"],
        cwd=ROOT,
        env={**os.environ, "PATH": search},
        capture_output=True,
        timeout=300,
        check=True,
    )
    assert run.stderr == b""
    return rows(run.stdout.decode())


def test_the_row_of_unixsock_is_what_is_measured(measured):
    [documented] = [cells for label, cells in DOCUMENTED.items() if label.startswith("unixsock ")]
    [cells] = [cells for label, cells in measured.items() if label.startswith("unixsock")]
    assert cells == documented


@pytest.mark.parametrize("label", ["unlink, then bind", "bind, unlink at exit"])
def test_the_script_sees_the_faults_of_what_is_written_by_hand(measured, label):
    assert measured[label] == DOCUMENTED[label]


def test_the_row_of_asyncio_is_what_is_measured_where_there_is_one_of_this_version(measured):
    [label] = [label for label in measured if label.startswith("asyncio, ")]
    assert measured[label] == DOCUMENTED.get(label, measured[label])


def test_the_counts_on_the_page_are_those_of_its_tables():
    others = [cells for label, cells in DOCUMENTED.items() if not label.startswith("unixsock ")]
    second, crash, file, race, unready, chdir, _, _ = zip(*others)
    assert len(others) == 21
    for count, saying in [
        (sum(cell.startswith("steals") for cell in second), "take the name from a running server"),
        (crash.count("fails"), "leave every file alone"),
        (unready.count("robbed"), "rob it"),
        (sum(cell.startswith("deleted") for cell in file), "delete a regular file"),
        (race.count("True"), "win every race"),
        (chdir.count("stranger's deleted"), "delete a stranger's socket"),
    ]:
        assert f"{count} of the 21 {saying}" in PAGE


def test_the_rounds_in_the_readme_are_those_of_the_page():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    told = re.findall(r"^\| (.*?)(?:, `(.*)`)? \| .* \| (\d+) of (\d+) \|$", readme, re.MULTILINE)
    assert len(told) == 5
    for way, option, won, rounds in told:
        row = f"{way}, {option}" if option else way
        assert re.search(rf"^\| {re.escape(row)} \|.* {won}/{rounds} ", PAGE, re.MULTILINE), row
