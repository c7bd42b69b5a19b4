#!/usr/bin/env python3
"""Prints template.yaml as a release has it: nothing is built, the functions' code is a zip in an S3 bucket that parameters name.
Everything else stays as it is written, comments too. Needs Python 3 alone.

    deploy/release/template.py 0.1.0 >release/template.yaml
"""

import re
import sys
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]
VERSION = r"[0-9]+\.[0-9]+\.[0-9]+(?:-[0-9A-Za-z.-]+)?"

GROUP = """      - Label: { default: "The functions' code" }
        Parameters: [CodeBucket, CodePrefix]
"""
PARAMETERS = """  CodeBucket:
    Type: String
    MinLength: 1
    Description: S3 bucket in this Region that holds the zip of the functions' code, as a release has it.
  CodePrefix:
    Type: String
    Default: ghcr-to-ecr/
    Description: What the zip's key in that bucket begins with, such as a folder's name and a slash.
"""
CODE = """    CodeUri:
      Bucket: !Ref CodeBucket
      Key: !Sub "${CodePrefix}ghcr-to-ecr-lambda-VERSION-${Architecture}.zip"
"""
# What is replaced, how often it stands there, and by what.
EDITS = [
    ("    # SAM builds once for functions whose metadata are the same.\n", 1, ""),
    ("      BuildMethod: rust-cargolambda\n      BuildProperties:\n        Binary: bootstrap\n", 2, ""),
    ("    ParameterGroups:\n", 1, "    ParameterGroups:\n" + GROUP),
    ("\nParameters:\n", 1, "\nParameters:\n" + PARAMETERS),
    ("    CodeUri: .\n", 1, CODE),
]


def released(template: str, version: str) -> str:
    for old, times, new in EDITS:
        found = template.count(old)
        if found != times:
            sys.exit(f"template.yaml: expected {old.strip()!r} {times} times and found it {found} times; "
                     "deploy/release/template.py has to follow the template")
        template = template.replace(old, new.replace("VERSION", version))
    return template


if __name__ == "__main__":
    if len(sys.argv) != 2 or not re.fullmatch(VERSION, sys.argv[1]):
        sys.exit("usage: deploy/release/template.py VERSION")
    sys.stdout.write(released((CHECKOUT / "template.yaml").read_text(), sys.argv[1]))
