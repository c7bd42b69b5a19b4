#!/usr/bin/env python3
"""Prints what CHANGELOG.md says of this version, as the release's notes, once everything agrees on what is released: Cargo.toml
and the changelog name the same version, and with a tag, the tag names it too and lies on the default branch.

    deploy/release/version.py                       # what the next release would say
    deploy/release/version.py v0.1.0 origin/main    # in the release itself; an empty tag is none

Runs in the checkout. Needs Python 3.11 or newer, and git where a tag is given."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

# Semantic Versioning's own form, without build metadata, which orders nothing.
VERSION = re.compile(r"(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)(-[0-9A-Za-z-]+(\.[0-9A-Za-z-]+)*)?")


def declared(checkout: Path) -> str:
    """The version in Cargo.toml, from which everything else takes it."""
    version = tomllib.loads((checkout / "Cargo.toml").read_text())["package"]["version"]
    if not VERSION.fullmatch(version):
        sys.exit(f"Cargo.toml: {version!r} is no version like 1.2.3 or 1.2.3-rc.1")
    return version


def notes(checkout: Path, version: str) -> str:
    """The changelog's section of that version, whose heading is `## 1.2.3`, with or without something after it."""
    sections = re.split(r"^## (.+)\n", (checkout / "CHANGELOG.md").read_text(), flags=re.MULTILINE)[1:]
    found = [text.strip() for heading, text in zip(sections[::2], sections[1::2]) if heading.split()[0] == version]
    if len(found) != 1:
        sys.exit(f"CHANGELOG.md: expected one section '## {version}' and found {len(found)}: write what is new in this version "
                 "under that heading, or correct the version in Cargo.toml")
    if not found[0]:
        sys.exit(f"CHANGELOG.md: the section '## {version}' is empty")
    return found[0]


def check_tag(checkout: Path, tag: str, branch: str, version: str) -> None:
    if tag != f"v{version}":
        sys.exit(f"the tag is {tag}, but Cargo.toml says {version}: delete the tag, and tag a commit whose Cargo.toml has its version")
    tagged = ["git", "-C", str(checkout), "merge-base", "--is-ancestor", f"refs/tags/{tag}", branch]
    if (status := subprocess.run(tagged).returncode) == 1:
        sys.exit(f"the tag {tag} is not on {branch}: merge it first, then tag what was merged")
    elif status:
        sys.exit(f"git could not say whether {tag} is on {branch}: both have to be in this clone, with their history")


def main(*arguments: str) -> None:
    checkout = Path.cwd()
    version = declared(checkout)
    if len(arguments) not in (0, 2):
        sys.exit("usage: deploy/release/version.py [TAG BRANCH]")
    if any(arguments[:1]):
        check_tag(checkout, *arguments, version)
    print(notes(checkout, version))


if __name__ == "__main__":
    main(*sys.argv[1:])
