#!/usr/bin/env bash
# Fuzzes the targets that are named, or all of them, for FUZZ_SECONDS (30) each, and prints what each has done.
# What it finds is kept in target/fuzz/artifacts; the inputs that reached new code are in target/fuzz/corpus, and serve the next run.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

seconds=${FUZZ_SECONDS:-30}
root=$(cd ../.. && pwd)
out=$root/target/fuzz

# The first lines of some inputs are not the payload's: each target says in its head what it reads.
seed() {
    local target=$1 corpus=$out/corpus/$1 file name
    mkdir -p "$corpus" "$out/artifacts/$target" "$out/logs"
    if [ -d "seeds/$target" ]; then
        cp "seeds/$target"/* "$corpus"
    fi
    case $target in
    event)
        cp "$root"/events/*.json "$corpus"
        ;;
    evidence)
        cp "$root"/tests/payloads/sigstore/*.json "$corpus"
        ;;
    webhook)
        for file in "$root"/tests/payloads/*.json; do
            name=$(basename "$file")
            { printf '%s\napplication/json\n' "${name%%.*}"; cat "$file"; } >"$corpus/$name"
        done
        ;;
    esac
}

if [ $# -eq 0 ]; then
    for file in targets/*.rs; do
        set -- "$@" "$(basename "$file" .rs)"
    done
fi

cargo build --locked
binaries=$out/$(rustc --print host-tuple)/debug
failed=()
for target; do
    seed "$target"
    log=$out/logs/$target.log
    "$binaries/$target" "$out/corpus/$target" -max_total_time="$seconds" -dict=dictionary.txt -timeout=10 \
        -rss_limit_mb=2048 -artifact_prefix="$out/artifacts/$target/" >"$log" 2>&1 || failed+=("$target")
    awk -v target="$target" '$2 == "DONE" { found = $0 } END { printf "%-10s %s\n", target, found ? found : "FAILED" }' "$log"
done
for target in "${failed[@]}"; do
    tail -n 30 "$out/logs/$target.log"
done
[ ${#failed[@]} -eq 0 ]
