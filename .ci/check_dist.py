"""Refuse a wheel that would install anything but this package, and an sdist that is not what git tracks.

    python .ci/check_dist.py dist/unixsock-0.1.0-py3-none-any.whl dist/unixsock-0.1.0.tar.gz

Run by .ci/run, in a clone, on what it has built. Prints what is in the wheel.
"""

import email
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def check_wheel(wheel):
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


def check_sdist(sdist):
    top = sdist.name[: -len(".tar.gz")] + "/"
    with tarfile.open(sdist) as archive:
        files = {entry.name: archive.extractfile(entry).read() for entry in archive if not entry.isdir()}
    assert all(name.startswith(top) for name in files)
    del files[f"{top}PKG-INFO"]  # made by the build; the wheel's check has read the same as METADATA

    tracked = subprocess.check_output(["git", "ls-files", "-z"], cwd=ROOT, text=True).split("\0")[:-1]
    expected = {top + name: (ROOT / name).read_bytes() for name in tracked}
    assert files.keys() == expected.keys(), files.keys() ^ expected.keys()
    assert files == expected


def print_listing(wheel):
    with zipfile.ZipFile(wheel) as archive:
        for entry in archive.infolist():
            print(f"{entry.file_size:8}  {entry.filename}")
    print(f"{wheel.stat().st_size:8}  {wheel.name}")


if __name__ == "__main__":
    built_wheel, built_sdist = map(Path, sys.argv[1:])
    print_listing(built_wheel)
    check_wheel(built_wheel)
    check_sdist(built_sdist)
