"""docs/comparison.md shows what its script measures of unixsock and two ways by hand; README.md and the chart agree."""

import re
import subprocess

from markdown import blocks, read
from observed import on_linux
from programs import AS_TYPED, ROOT

PAGE = read("docs/comparison.md")


def rows(text, cells):
    """Each row of a table that has so many cells beside its label."""
    split = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| ")]
    return {label: values for label, *values in split if len(values) == cells and label not in {"way", "---"}}


DOCUMENTED = rows(PAGE, 9)


def all_won(cells):
    """Of the rounds, which come out differently each time, whether all were won."""
    return [re.sub(r"^(\d+)/(\d+)$", lambda won: str(won[1] == won[2]), cell) for cell in cells]


@on_linux  # the script reads /proc/net/unix
def test_the_page_shows_what_its_command_measures():
    [command] = blocks(PAGE, "sh")
    run = subprocess.run(
        ["sh", "-c", f"trap '' INT; {command.strip()} --rounds 2 unixsock unlink-bind bind-unlink"],
        cwd=ROOT,
        env=AS_TYPED,
        capture_output=True,
        timeout=300,
        check=True,
    )
    assert run.stderr == b""
    measured = rows(run.stdout.decode(), 9)
    assert len(measured) == 3
    for label, cells in measured.items():
        assert all_won(cells) == all_won(DOCUMENTED[label]), label


def test_the_readme_shows_what_the_page_shows():
    compared = rows(read("README.md").replace("`", ""), 4)
    compared.pop("", None)  # the header
    assert compared
    for label, (second, crash, file, race) in compared.items():
        cells = DOCUMENTED[label]
        assert cells[0].startswith(second)
        assert crash.startswith(cells[1])
        assert [file, race.replace(" of ", "/")] == [cells[2].partition(";")[0], cells[3]]


def test_the_chart_shows_the_figures_of_the_table():
    table = [re.match(r"\d+\.\d", cell)[0] for cells in rows(PAGE, 3).values() for cell in cells if cell[0].isdigit()]
    chart = re.findall(r">(\d+\.\d)<", read("docs/cost.svg"))
    assert table
    assert sorted(table) == sorted(chart)
