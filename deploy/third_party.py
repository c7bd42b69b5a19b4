#!/usr/bin/env python3
"""Prints the licences of everything that the released binaries contain, as the licences ask whoever hands binaries on: each
text once, with the crates that it is of, and what Rust says of its standard library. The same sources and the same version of
Rust give the same bytes.

    deploy/third_party.py >THIRD-PARTY.txt

Needs cargo from rustup, and the crates, which `cargo fetch --locked` downloads."""

import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

from bill_of_materials import BINARIES, CHECKOUT, PACKAGE, resolved

NAMES = re.compile(r"(LICEN[CS]E|COPYING|NOTICE|COPYRIGHT)([-_.].*)?", re.IGNORECASE)
LINE = "=" * 80


def linked() -> list[dict]:
    """Each crate once, whichever of the binaries it is in."""
    packages = {key: package for binary in BINARIES.values() for key, package in resolved(*binary)[0].items()}
    return sorted((package for package in packages.values() if package["name"] != PACKAGE),
                  key=lambda package: (package["name"], package["version"]))


def rust_documents() -> Path:
    root = subprocess.run(["rustc", "--print", "sysroot"], cwd=CHECKOUT, check=True, text=True, stdout=subprocess.PIPE).stdout
    return Path(root.strip()) / "share/doc/rust"


def texts(package: dict, common: Path) -> list[str]:
    """What the crate has. Where it has no text at all, the common one of a licence that it names; its authors stand beside."""
    folder = Path(package["manifest_path"]).parent
    files = sorted(file for file in folder.rglob("*") if NAMES.fullmatch(file.name) and file.is_file())
    if any(not file.name.upper().startswith("NOTICE") for file in files):
        return [file.read_text(errors="replace").strip() for file in files]
    for name in re.findall(r"[A-Za-z0-9.-]+", package["license"]):
        if (text := common / f"{name}.txt").is_file():
            return [text.read_text().strip()]
    sys.exit(f"{package['name']} {package['version']} brings no text of its licence, {package['license']}, and Rust has none")


class Text(HTMLParser):
    """The text of a page."""

    def __init__(self, page: str):
        super().__init__()
        self.parts: list[str] = []
        self.feed(page)

    def handle_data(self, data: str) -> None:
        self.parts.append(data)

    def __str__(self) -> str:
        return re.sub(r"\n\s*\n", "\n\n", "".join(self.parts)).strip()


def main() -> None:
    rust = rust_documents()
    holders: dict[str, list[str]] = {}
    for package in linked():
        authors = f", {', '.join(package['authors'])}" if package["authors"] else ""
        described = f"{package['name']} {package['version']} ({package['license']}{authors})"
        for text in dict.fromkeys(texts(package, rust / "licenses")):
            holders.setdefault(text, []).append(described)
    print("What the binaries of ghcr-to-ecr contain besides its own code, and the licences of it.")
    for text, crates in holders.items():
        print(f"\n{LINE}\n" + "\n".join(crates) + f"\n{LINE}\n\n{text}")
    standard = Text((rust / "COPYRIGHT-library.html").read_text())
    print(f"\n{LINE}\nRust's standard library\n{LINE}\n\n{standard}")


if __name__ == "__main__":
    main()
