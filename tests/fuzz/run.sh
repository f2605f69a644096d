#!/usr/bin/env bash
# tests/fuzz/run.sh TARGET [SECONDS] [LIBFUZZER OPTION ...]
#
# Lets libFuzzer look for inputs that break a promise of TARGET: decode, sketches, pipelines, schemas, log, statements or wire. What it finds worth keeping
# goes to target/fuzz/TARGET, which begins with what earlier runs found (grown/), and what breaks a promise to target/fuzz/TARGET-broken. Only our own crates are built for it,
# with the marks of coverage that it follows; everything else is what the tests have built already.
set -euo pipefail

root=$(cd "$(dirname "$0")/../.." && pwd)
target=${1:?"which one: decode, sketches, pipelines, schemas, log, statements or wire"}
seconds=${2:-60}
shift $(($# < 2 ? $# : 2))
kept=$root/target/fuzz/$target
broken=$root/target/fuzz/$target-broken
grown=$root/tests/fuzz/grown/$target.tar.gz
mkdir -p "$kept" "$broken"
if [ -e "$grown" ] && [ -z "$(ls -A "$kept")" ]; then tar -xzf "$grown" -C "$kept"; fi

cd "$root"
build=${CARGO_TARGET_DIR:-$root/target}
RUSTC_WORKSPACE_WRAPPER=$root/tests/fuzz/rustc.sh \
  cargo build --locked --workspace --features alluvium-fuzz/fuzzer --bin "fuzz-$target"
exec "$build/debug/fuzz-$target" "$kept" "$root/tests/fuzz/corpus/$target" \
  -max_total_time="$seconds" -artifact_prefix="$broken/" -timeout=10 -rss_limit_mb=4096 \
  -dict="$root/tests/fuzz/$target.dict" "$@"
