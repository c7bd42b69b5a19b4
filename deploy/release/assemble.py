#!/usr/bin/env python3
"""Puts the files of a release together, from what the builds have left, and lists their checksums in SHA256SUMS.

    deploy/release/assemble.py 0.1.0 owner/ghcr-to-ecr BUILDS FOLDER

BUILDS has a folder for each build: function-arm64-first, function-arm64-second and the same for x86_64, each as `make
release-function` leaves target/package, and command-TARGET for each system of the laptop's command, as `make release-command`
leaves it. The two builds of a function have to be the same bytes, or nothing is assembled. FOLDER must not exist.

Needs cargo from rustup."""

import hashlib
import re
import subprocess
import sys
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(CHECKOUT / "deploy"))
from bill_of_materials import COMMANDS, FUNCTIONS


def files(folder: Path, expected: set[str]) -> dict[str, bytes]:
    """What a build has left: exactly the files that are expected, so that none is forgotten and none comes along unseen."""
    found = {path.name: path.read_bytes() for path in folder.iterdir()} if folder.is_dir() else {}
    if found.keys() != expected:
        sys.exit(f"{folder}: expected {', '.join(sorted(expected))} and found {', '.join(sorted(found)) or 'nothing'}")
    return found


def function(builds: Path, architecture: str) -> dict[str, bytes]:
    """The zip and the bill of materials, which two builds have made alike."""
    zip_name, bill = f"ghcr-to-ecr-{architecture}.zip", f"ghcr-to-ecr-{architecture}.cdx.json"
    first, second = (files(builds / f"function-{architecture}-{build}", {zip_name, f"{zip_name}.sha256", bill})
                     for build in ("first", "second"))
    for name, content in first.items():
        if content != second[name]:
            sys.exit(f"{name}: two builds of the same sources differ ({sha256(content)} and {sha256(second[name])}), so nobody "
                     "could build it again and compare; look for what differs between the two with diffoscope")
    return {"zip": first[zip_name], "cdx.json": first[bill]}


def installer(version: str, repository: str) -> bytes:
    """install.sh, which knows from here on what it installs and from where."""
    script = (CHECKOUT / "install.sh").read_text()
    for name, value in {"VERSION": version, "REPOSITORY": repository}.items():
        script, count = re.subn(rf"^{name}=$", f"{name}={value}", script, flags=re.MULTILINE)
        if count != 1:
            sys.exit(f"install.sh: expected one line '{name}=' and found {count}")
    return script.encode()


def output(*command: object) -> bytes:
    return subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def release(version: str, repository: str, builds: Path) -> dict[str, bytes]:
    """Every file by its name, but for the checksums."""
    assembled = {}
    for architecture in FUNCTIONS:
        assembled |= {f"ghcr-to-ecr-lambda-{version}-{architecture}.{kind}": content
                      for kind, content in function(builds, architecture).items()}
    for target in COMMANDS:
        name = f"ghcr-to-ecr-{version}-{target}"
        assembled |= files(builds / f"command-{target}", {f"{name}.tar.gz", f"{name}.cdx.json"})
    assembled |= {
        "template.yaml": output(CHECKOUT / "deploy/release/template.py", version),
        "install.sh": installer(version, repository),
        "THIRD-PARTY.txt": output(CHECKOUT / "deploy/third_party.py"),
    }
    return dict(sorted(assembled.items()))


def main(version: str, repository: str, builds: Path, folder: Path) -> None:
    if not re.fullmatch(r"[A-Za-z0-9-]+/[A-Za-z0-9._-]+", repository):
        sys.exit(f"{repository!r} is no repository of GitHub like owner/name")
    assembled = release(version, repository, builds)
    assembled["SHA256SUMS"] = "".join(f"{sha256(content)}  {name}\n" for name, content in assembled.items()).encode()
    folder.mkdir(parents=True)
    for name, content in assembled.items():
        (folder / name).write_bytes(content)
        print(f"{len(content):>10}  {name}")
    (folder / "install.sh").chmod(0o755)


if __name__ == "__main__":
    if len(sys.argv) != 5:
        sys.exit("usage: deploy/release/assemble.py VERSION OWNER/NAME BUILDS FOLDER")
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]), Path(sys.argv[4]))
