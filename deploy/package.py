#!/usr/bin/env python3
"""Puts a binary into the zip that Lambda takes, as `bootstrap`. The same binary gives the same bytes: neither when nor by whom it
was built is in it.

    deploy/package.py target/lambda/bootstrap/bootstrap ghcr-to-ecr-arm64.zip

Prints the zip's SHA-256 as `sha256sum` does."""

import hashlib
import sys
import zipfile
from pathlib import Path

# The earliest time that a zip can have.
TIME = (1980, 1, 1, 0, 0, 0)
# A file that everybody may read and run, in the form in which Unix keeps it in a zip. Lambda starts nothing else.
MODE = 0o100755 << 16
UNIX = 3


def package(binary: Path, archive: Path) -> None:
    entry = zipfile.ZipInfo("bootstrap", TIME)
    entry.external_attr, entry.create_system, entry.compress_type = MODE, UNIX, zipfile.ZIP_DEFLATED
    with zipfile.ZipFile(archive, "w") as opened:
        opened.writestr(entry, binary.read_bytes(), compresslevel=9)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: deploy/package.py BINARY ZIP")
    binary, archive = map(Path, sys.argv[1:])
    package(binary, archive)
    print(f"{hashlib.sha256(archive.read_bytes()).hexdigest()}  {archive.name}")
