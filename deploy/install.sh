#!/usr/bin/env bash
# Installs what builds and deploys the function, AWS SAM and cargo-lambda, into .tools/venv. Needs Rust and Python, and
# changes nothing outside .tools. May run any number of times; when everything is there, it changes nothing.
set -euo pipefail
cd "$(dirname "$0")/.."

fail() {
  printf 'deploy/install.sh: %s\n' "$*" >&2
  exit 1
}

python=${PYTHON:-python3}
venv=.tools/venv
requirements=deploy/requirements.txt

command -v cargo >/dev/null ||
  fail "there is no cargo; install Rust as https://www.rust-lang.org/tools/install describes"
! cmp -s "$requirements" "$venv/deploy.txt" || exit 0

advice="install one (macOS: brew install python; Debian, Ubuntu: apt-get install python3 python3-venv), \
and if its name is not python3, say so: PYTHON=python3.13 make deploy"
command -v "$python" >/dev/null || fail "AWS SAM needs Python 3.10 or newer, and there is no $python: $advice"
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' ||
  fail "AWS SAM needs Python 3.10 or newer, and $python is $("$python" --version 2>&1): $advice"
"$python" -c 'import ensurepip, venv' 2>/dev/null ||
  fail "$python lacks the module venv (Debian, Ubuntu: apt-get install python3-venv)"

rm -rf "$venv"
"$python" -m venv "$venv"
"$venv/bin/pip" install --quiet --disable-pip-version-check --requirement "$requirements" ||
  fail "pip could not install $requirements with $("$python" --version)"
cp "$requirements" "$venv/deploy.txt"
