"""Refuse a release whose tag, version, changelog and README do not go together.

    python .ci/check_tag.py v0.1.0

Run by the release workflow before it builds anything. Prints the changelog's entry.
"""

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def entry_of(tag, pyproject, changelog):
    """What `changelog` says under the version that `tag` and `pyproject` agree on; ValueError if there is none."""
    version = re.search(r'^version = "(.+)"$', pyproject, re.MULTILINE)[1]
    if tag != f"v{version}":
        raise ValueError(f"the tag is {tag}, but pyproject.toml says {version}")
    heading = rf"^## {re.escape(version)} - \d{{4}}-\d\d-\d\d$"
    found = re.search(rf"{heading}(.*?)(?=^## |\Z)", changelog, re.MULTILINE | re.DOTALL)
    if not (found and found[1].strip()):
        raise ValueError(f'docs/changelog.md has no entry "## {version} - YYYY-MM-DD"')
    return found[1].strip()


def refuse_relative_links(readme):
    """ValueError if a link of `readme` would lead nowhere from the package's page on an index."""
    relative = re.findall(r"\]\((?!https?://|#)([^)]*)\)", readme)
    if relative:
        raise ValueError(f"README.md has relative links, which an index does not follow: {', '.join(relative)}")


if __name__ == "__main__":
    names = ("pyproject.toml", "docs/changelog.md", "README.md")
    pyproject_text, changelog_text, readme_text = ((ROOT / name).read_text("utf-8") for name in names)
    try:
        print(entry_of(sys.argv[1], pyproject_text, changelog_text))
        refuse_relative_links(readme_text)
    except ValueError as error:
        sys.exit(f"no release: {error}")
