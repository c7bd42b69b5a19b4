#!/usr/bin/env bash
# Runs the tests of this folder in two processes: those of the built functions, which wait for the compiler and for containers, and
# all others meanwhile, whose output comes last.
set -uo pipefail
cd "$(dirname "$0")/../.." || exit

output=$(mktemp)
others=
# shellcheck disable=SC2317,SC2329 # the trap calls it
clean_up() {
  [ -z "$others" ] || kill "$others" 2>/dev/null
  rm -f "$output"
}
trap clean_up EXIT

run() {
  PYTHONDONTWRITEBYTECODE=1 .tools/venv/bin/python -m pytest -p no:cacheprovider -m "$1" tests/real
}

run 'not built' >"$output" 2>&1 &
others=$!
run built
status=$?
wait "$others" || status=$?
others=
cat "$output"
exit "$status"
