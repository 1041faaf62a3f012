"""A tag is released only if the version, the changelog and the README's links go with it."""

import pytest

from check_tag import ROOT, entry_of, refuse_relative_links

PYPROJECT = '[project]\nname = "x"\nversion = "1.2.0"\n'


def test_the_entry_of_a_tagged_version_is_what_stands_under_its_heading():
    changelog = "# Changes\n\n## 1.2.0 - 2026-01-02\n\n- new\n\n## 1.1.0 - 2025-01-02\n\n- old\n"
    assert entry_of("v1.2.0", PYPROJECT, changelog) == "- new"


@pytest.mark.parametrize("tag", ["v1.2", "v1.2.1", "1.2.0", "v1.2.0rc1"])
def test_a_tag_that_is_not_the_version_is_refused(tag):
    with pytest.raises(ValueError, match=r"says 1\.2\.0"):
        entry_of(tag, PYPROJECT, "## 1.2.0 - 2026-01-02\n\n- new\n")


@pytest.mark.parametrize(
    "changelog",
    [
        "## 1.1.0 - 2025-01-02\n\n- old\n",
        "## 1.2.0 - unreleased\n\n- no date\n",
        "## 1.2.0 - 2026-01-02\n\n## 1.1.0 - 2025-01-02\n\n- old\n",
        "## 1x2.0 - 2026-01-02\n\n- other\n",
        "The next one will be\n\n    ## 1.2.0 - 2026-01-02\n\n- indented\n",
    ],
)
def test_a_version_without_an_entry_is_refused(changelog):
    with pytest.raises(ValueError, match="no entry"):
        entry_of("v1.2.0", PYPROJECT, changelog)


def test_the_newest_entry_of_the_changelog_is_well_formed_once_it_has_a_date():
    changelog = (ROOT / "docs" / "changelog.md").read_text("utf-8").replace("- unreleased\n", "- 2026-01-02\n")
    version = changelog.partition("\n## ")[2].split(" ")[0]
    assert entry_of(f"v{version}", f'version = "{version}"', changelog)


@pytest.mark.parametrize("link", ["docs/index.md", "LICENSE", "/docs", "docs/index.md#top"])
def test_a_readme_with_a_link_that_an_index_does_not_follow_is_refused(link):
    with pytest.raises(ValueError, match="relative"):
        refuse_relative_links(f"Start [here](https://example.org/a) or [there]({link}).")


def test_a_readme_whose_links_work_from_anywhere_is_not_refused():
    refuse_relative_links("[Here](https://example.org/a.md#top), ![chart](https://example.org/a.svg), [up](#top)")
