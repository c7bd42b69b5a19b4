#!/usr/bin/env python3
"""Puts the laptop's command into the archive that a release has for one system, with the licences that have to come along. The
same files give the same bytes: neither when nor by whom it was made is in it.

    deploy/release/tarball.py 0.1.0 aarch64-apple-darwin target/aarch64-apple-darwin/release/ghcr-to-ecr target/package

Needs cargo from rustup."""

import gzip
import io
import subprocess
import sys
import tarfile
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]


def tarball(name: str, files: dict[str, tuple[int, bytes]]) -> bytes:
    """All files in one folder, which has the archive's name."""
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for path, (mode, content) in files.items():
            member = tarfile.TarInfo(f"{name}/{path}")
            member.mode, member.size = mode, len(content)
            archive.addfile(member, io.BytesIO(content))
    return gzip.compress(plain.getvalue(), compresslevel=9, mtime=0)


def main(version: str, target: str, binary: str, folder: str) -> None:
    licences = subprocess.run([CHECKOUT / "deploy/third_party.py"], check=True, stdout=subprocess.PIPE).stdout
    name = f"ghcr-to-ecr-{version}-{target}"
    archive = Path(folder) / f"{name}.tar.gz"
    archive.parent.mkdir(parents=True, exist_ok=True)
    archive.write_bytes(tarball(name, {
        "ghcr-to-ecr": (0o755, Path(binary).read_bytes()),
        "LICENSE": (0o644, (CHECKOUT / "LICENSE").read_bytes()),
        "THIRD-PARTY.txt": (0o644, licences),
    }))
    print(archive)


if __name__ == "__main__":
    if len(sys.argv) != 5:
        sys.exit("usage: deploy/release/tarball.py VERSION TARGET BINARY FOLDER")
    main(*sys.argv[1:])
