#!/usr/bin/env python3
"""Writes the software bill of materials of a binary, CycloneDX 1.6 as JSON: each crate that it contains, with its version,
licence, checksum and what it depends on in turn. The same sources give the same bytes.

    deploy/bill_of_materials.py arm64 >bill-of-materials.json                   # of the function
    deploy/bill_of_materials.py aarch64-apple-darwin >bill-of-materials.json    # of the laptop's command

Needs cargo, and the crates, which `cargo fetch --locked` downloads."""

import json
import re
import subprocess
import sys
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[1]
PACKAGE = "ghcr-to-ecr"
# Of each binary, Rust's target and the features that it is built with: the function by Lambda's name of the processor, the
# laptop's command by the target itself.
FUNCTIONS = {"arm64": "aarch64-unknown-linux-gnu", "x86_64": "x86_64-unknown-linux-gnu"}
COMMANDS = [*FUNCTIONS.values(), "aarch64-apple-darwin", "x86_64-apple-darwin"]
BINARIES = {name: (target, "") for name, target in FUNCTIONS.items()} | {target: (target, "cli") for target in COMMANDS}


def cargo(*arguments: str) -> str:
    return subprocess.run(["cargo", *arguments, "--locked", "--offline"], cwd=CHECKOUT, check=True, text=True,
                          stdout=subprocess.PIPE).stdout


def shipped(target: str, features: str) -> set[tuple[str, str]]:
    """Names and versions of what is linked: neither what only tests and builds use, nor macros, which run at the build."""
    listed = cargo("tree", "--package", PACKAGE, "--features", features, "--edges", "normal,no-proc-macro", "--target", target,
                   "--prefix", "none", "--format", "{p}")
    words = [line.split() for line in listed.splitlines()]
    return {(name, version.removeprefix("v")) for name, version, *_ in words}


def checksums() -> dict[tuple[str, str], str]:
    lock = (CHECKOUT / "Cargo.lock").read_text()
    entries = re.findall(r'name = "(.+)"\nversion = "(.+)"\nsource = ".+"\nchecksum = "(.+)"', lock)
    return {(name, version): checksum for name, version, checksum in entries}


def component(package: dict, checksum: str | None) -> dict:
    reference = f"pkg:cargo/{package['name']}@{package['version']}"
    # Older crates write `MIT/Apache-2.0`, which means either.
    licence = package["license"].replace("/", " OR ")
    described = {
        "type": "application" if package["name"] == PACKAGE else "library",
        "bom-ref": reference, "name": package["name"], "version": package["version"], "purl": reference,
        "licenses": [{"expression": licence}],
    }
    if checksum:
        described["hashes"] = [{"alg": "SHA-256", "content": checksum}]
    if package["repository"]:
        described["externalReferences"] = [{"type": "vcs", "url": package["repository"]}]
    return described


def resolved(target: str, features: str) -> tuple[dict[str, dict], list[dict]]:
    """The packages that are linked, by cargo's own ids, and all that cargo knows of who depends on whom."""
    metadata = json.loads(cargo("metadata", "--format-version", "1", "--features", features, "--filter-platform", target))
    linked = shipped(target, features)
    packages = {package["id"]: package for package in metadata["packages"]
                if (package["name"], package["version"]) in linked}
    return packages, metadata["resolve"]["nodes"]


def bill_of_materials(target: str, features: str) -> dict:
    packages, nodes = resolved(target, features)
    hashes = checksums()
    components = {key: component(package, hashes.get((package["name"], package["version"])))
                  for key, package in packages.items()}
    own, = [key for key, package in packages.items() if package["name"] == PACKAGE]
    depends = [
        {"ref": components[node["id"]]["bom-ref"], "dependsOn": sorted(
            components[used["pkg"]]["bom-ref"] for used in node["deps"]
            if used["pkg"] in components and any(kind["kind"] is None for kind in used["dep_kinds"]))}
        for node in nodes if node["id"] in components]
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json", "bomFormat": "CycloneDX", "specVersion": "1.6",
        "version": 1, "metadata": {"component": components.pop(own)},
        "components": sorted(components.values(), key=lambda entry: entry["bom-ref"]),
        "dependencies": sorted(depends, key=lambda entry: entry["ref"]),
    }


if __name__ == "__main__":
    if len(sys.argv) != 2 or sys.argv[1] not in BINARIES:
        sys.exit(f"usage: deploy/bill_of_materials.py {'|'.join(BINARIES)}")
    print(json.dumps(bill_of_materials(*BINARIES[sys.argv[1]]), indent=2))
