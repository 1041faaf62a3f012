"""The pages: links lead somewhere, code is run by a test, and named tests exist."""

import os
import re
import shlex
import subprocess
import sys

import pytest

from children import PATIENCE
from markdown import FENCED, read
from programs import EXAMPLES, ROOT

DOCS = ["README.md", *sorted(str(page.relative_to(ROOT)) for page in ROOT.glob("docs/*.md"))]
PAGES = DOCS + sorted(str(page.relative_to(ROOT)) for page in ROOT.glob(".github/*.md"))
TEXT = {page: read(page) for page in PAGES}
BLOCKS = [(page, kind, text) for page in PAGES for _, kind, text in FENCED.findall(TEXT[page])]

RUN = {"python", "sh"}
NOT_RUN = {"text", "ini", "nginx", "toml", "yaml"}

# The pages whose code another test runs, which names them.
TESTS = {file.name: file.read_text(encoding="utf-8") for file in sorted((ROOT / "tests").glob("*/test_*.py"))}
RUN_ELSEWHERE = {
    page for page in PAGES for name, text in TESTS.items() if name != os.path.basename(__file__) and f'"{page}"' in text
}

# The others have commands for people who work on the package. These are tried here: tests are collected, not run.
COMMANDS = [
    (page, re.sub(r" +#.*", "", line).strip())
    for page, kind, text in BLOCKS
    if kind == "sh" and page not in RUN_ELSEWHERE
    for line in text.splitlines()
    if line.strip() not in TEXT["README.md"].splitlines()  # those are run by .ci/run
]


def without_code(page):
    return FENCED.sub("", TEXT[page])


def anchors(page):
    """What a forge makes of the headings."""
    headings = re.findall(r"^#+ (.*)$", without_code(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def links(page):
    """What a page links to within the project, each as a path and an anchor."""
    for link in re.findall(r"\]\(([^)]+)\)", without_code(page)):
        if not re.match(r"https?://", link):
            name, _, anchor = link.partition("#")
            yield os.path.normpath(os.path.join(os.path.dirname(page), name)) if name else page, anchor


@pytest.mark.parametrize("page", PAGES)
def test_every_link_leads_to_a_file_and_a_heading_in_it(page):
    for target, anchor in links(page):
        assert (ROOT / target).exists(), target
        assert not anchor or anchor in anchors(target), f"{target}#{anchor}"


@pytest.mark.parametrize("page", sorted({*DOCS} - {"README.md"}))
def test_every_page_can_be_reached_from_another(page):
    assert page in {target for other in PAGES if other != page for target, _ in links(other)}


def test_every_example_is_linked_from_a_page():
    examples = {str(file.relative_to(ROOT)) for file in EXAMPLES.iterdir() if file.is_file()}
    assert examples <= {target for page in DOCS for target, _ in links(page)}


def test_every_fence_is_the_begin_or_the_end_of_a_block():
    for page in PAGES:
        assert TEXT[page].count("```") == 2 * len(FENCED.findall(TEXT[page])), page


@pytest.mark.parametrize("page", PAGES)
def test_every_block_is_run_by_a_test_or_marked_as_something_else(page):
    kinds = {kind for name, kind, _ in BLOCKS if name == page}
    assert kinds <= RUN | NOT_RUN
    assert page in RUN_ELSEWHERE or kinds <= {"sh"} | NOT_RUN


def collected(arguments):
    """What pytest says when it has looked which tests these arguments mean."""
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE, check=False)


@pytest.mark.parametrize(("page", "line"), COMMANDS)
def test_a_command_for_those_who_work_on_the_package_names_what_there_is(page, line):
    for command in line.split(" && "):
        program, *arguments = shlex.split(command)
        program = os.path.basename(program)
        if program == "python" and arguments[:2] == ["-m", "pytest"]:
            done = collected(arguments[2:])
            assert done.returncode == 0, done.stdout
        elif program == "python" and arguments[0].endswith(".py"):
            compile(read(arguments[0]), arguments[0], "exec")
        else:
            assert as_in_continuous_integration(program, arguments)


def as_in_continuous_integration(program, arguments):
    """Whether .ci/run does the same, so that somebody notices when it is wrong."""
    if program == "bash":  # that script itself
        [same] = arguments
    elif program == "python":  # -m pip install
        group = arguments[arguments.index("--group") + 1]
        same = f"environment {group} --group {group}"
    else:
        same = " ".join([f'bin/{program}"', *arguments])
    return same in read(".ci/run")


@pytest.mark.parametrize("page", PAGES)
def test_every_test_that_is_named_exists(page):
    functions = re.findall(r"^def (test_\w+)", "\n".join(TESTS.values()), re.MULTILINE)
    named = re.findall(r"`(?:tests/\w+/)?(test_\w+)(\.py)?`", TEXT[page])
    assert {name for name, _ in named} <= {*functions, *(name[: -len(".py")] for name in TESTS)}
