#!/usr/bin/env bash
# What cargo calls for our own crates when `run.sh` builds them: rustc, with the marks of coverage that libFuzzer follows.
# `cfg(fuzzing)` lets what comes up seldom come up often.
exec "$@" \
  --cfg=fuzzing \
  -Cpasses=sancov-module \
  -Cllvm-args=-sanitizer-coverage-level=4 \
  -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
  -Cllvm-args=-sanitizer-coverage-pc-table \
  -Cllvm-args=-sanitizer-coverage-trace-compares
