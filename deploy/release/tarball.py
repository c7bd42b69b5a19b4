#!/usr/bin/env python3
"""Puts the laptop's command into the archive that a release has for one system, with the licences that have to come along. The
same files give the same bytes: neither when nor by whom it was made is in it.

    deploy/release/tarball.py ghcr-to-ecr-0.1.0-aarch64-apple-darwin BINARY LICENSE THIRD-PARTY.txt FOLDER
"""

import gzip
import io
import sys
import tarfile
from pathlib import Path


def tarball(name: str, files: dict[str, tuple[int, bytes]]) -> bytes:
    """All files in one folder, which has the archive's name."""
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for path, (mode, content) in files.items():
            member = tarfile.TarInfo(f"{name}/{path}")
            member.mode, member.size = mode, len(content)
            archive.addfile(member, io.BytesIO(content))
    return gzip.compress(plain.getvalue(), compresslevel=9, mtime=0)


def main(name: str, binary: Path, licence: Path, third_party: Path, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.tar.gz").write_bytes(tarball(name, {
        "ghcr-to-ecr": (0o755, binary.read_bytes()),
        "LICENSE": (0o644, licence.read_bytes()),
        "THIRD-PARTY.txt": (0o644, third_party.read_bytes()),
    }))


if __name__ == "__main__":
    if len(sys.argv) != 6:
        sys.exit("usage: deploy/release/tarball.py NAME BINARY LICENSE THIRD-PARTY FOLDER")
    main(sys.argv[1], *map(Path, sys.argv[2:]))
