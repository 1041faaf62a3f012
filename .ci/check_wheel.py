"""Refuse a wheel that would install anything but this package, its licence and its metadata.

    python .ci/check_wheel.py dist/unixsock-0.1.0-py3-none-any.whl

Run by .ci/run on what it has built. Prints what is in the wheel.
"""

import email
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def check(wheel):
    name, version, *tags = wheel.stem.split("-")
    assert (name, tags) == ("unixsock", ["py3", "none", "any"]), wheel.name
    with zipfile.ZipFile(wheel) as archive:
        files = {entry.filename: archive.read(entry) for entry in archive.infolist()}

    info = f"unixsock-{version}.dist-info"
    metadata = email.message_from_bytes(files.pop(f"{info}/METADATA"))
    assert metadata["Name"] == "unixsock"
    assert metadata["Version"] == version
    assert metadata["Requires-Python"] == ">=3.9"
    assert metadata["License-Expression"] == "MIT"
    assert metadata.get_all("License-File") == ["LICENSE"]
    assert metadata["Description-Content-Type"] == "text/markdown"
    assert "Requires-Dist" not in metadata, "a dependency"

    assert files.pop(f"{info}/licenses/LICENSE") == (ROOT / "LICENSE").read_bytes()
    del files[f"{info}/WHEEL"], files[f"{info}/RECORD"]

    modules = (ROOT / "src" / "unixsock").glob("*.py")
    expected = {f"unixsock/{module.name}": module.read_bytes() for module in modules}
    expected["unixsock/py.typed"] = b""
    assert files.keys() == expected.keys(), files.keys() ^ expected.keys()
    assert files == expected


def print_listing(wheel):
    with zipfile.ZipFile(wheel) as archive:
        for entry in archive.infolist():
            print(f"{entry.file_size:8}  {entry.filename}")
    print(f"{wheel.stat().st_size:8}  {wheel.name}")


if __name__ == "__main__":
    [path] = map(Path, sys.argv[1:])
    print_listing(path)
    check(path)
