"""What stands in the project's pages: their text, and the blocks of code in it."""

import re
import textwrap

from programs import ROOT

FENCED = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)


def read(page):
    """The text of a page, such as "docs/index.md"."""
    return (ROOT / page).read_text(encoding="utf-8")


def blocks(text, kind):
    """The code in each block of that kind, without the indentation that it has in a list."""
    return [textwrap.dedent(code) for _, found, code in FENCED.findall(text) if found == kind]


def block(text, part):
    """The code in the one block that has `part` in it."""
    [code] = [textwrap.dedent(code) for _, _, code in FENCED.findall(text) if part in code]
    return code
