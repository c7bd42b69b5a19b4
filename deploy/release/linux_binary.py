#!/usr/bin/env python3
"""Refuses a binary for Linux that would not start where it is meant to: one for another processor, or one that asks for a
newer glibc than the system has. Amazon Linux 2023, on which Lambda's provided.al2023 rests, has glibc 2.34.

    deploy/release/linux_binary.py arm64 2.34 target/lambda/bootstrap/bootstrap

Needs readelf, of the GNU binutils."""

import os
import re
import subprocess
import sys

# As readelf names them.
MACHINES = {"arm64": "AArch64", "x86_64": "Advanced Micro Devices X86-64"}


def readelf(option: str, binary: str) -> str:
    done = subprocess.run(["readelf", "--wide", option, binary], text=True, capture_output=True,
                          env=os.environ | {"LC_ALL": "C"})
    # Of a file that is no binary, some versions complain without failing.
    if done.returncode or "Error:" in done.stderr:
        sys.exit(f"readelf could not read {binary}: {done.stderr.strip()}")
    return done.stdout


def number(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")))


def main(architecture: str, glibc: str, binary: str) -> None:
    machine, = re.findall(r"^\s*Machine:\s*(.+?)\s*$", readelf("--file-header", binary), re.MULTILINE)
    if machine != MACHINES[architecture]:
        sys.exit(f"{binary} is for {machine}, and {architecture} was asked for")
    # Each library of which symbols are needed is listed with their versions; GLIBC_PRIVATE is no number, and never needed.
    needed = set(re.findall(r"Name: GLIBC_(\S+)", readelf("--version-info", binary)))
    if not needed:
        sys.exit(f"{binary} names no version of glibc: it is linked in another way than this check understands")
    if "PRIVATE" in needed:
        sys.exit(f"{binary} needs glibc's private symbols, which only the very same glibc has")
    highest = max(needed, key=number)
    if number(highest) > number(glibc):
        sys.exit(f"{binary} needs glibc {highest}, and where it is to run there is {glibc}")
    print(f"{binary}: {architecture}, needs glibc {highest}, may need {glibc}")


if __name__ == "__main__":
    if len(sys.argv) != 4 or sys.argv[1] not in MACHINES:
        sys.exit("usage: deploy/release/linux_binary.py arm64|x86_64 GLIBC BINARY")
    main(*sys.argv[1:])
