#!/bin/sh
# run.sh TARGET SECONDS: builds a fuzzer with the stable toolchain and runs it; what it finds is kept in corpus/TARGET.
set -eu
cd "$(dirname "$0")"
target=$1 seconds=$2
host=$(rustc -vV | sed -n 's/^host: //p')
RUSTC_BOOTSTRAP=1 RUSTFLAGS="-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
-Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
-Cllvm-args=-sanitizer-coverage-trace-compares -Ccodegen-units=1 --cfg fuzzing" \
	cargo build --release --target "$host" --bin "$target"
mkdir -p "corpus/$target" "artifacts/$target"
exec "target/$host/release/$target" "corpus/$target" "seeds/$target" -max_total_time="$seconds" -rss_limit_mb=512 \
	-malloc_limit_mb=256 -timeout=10 -max_len=65536 -artifact_prefix="artifacts/$target/" -print_final_stats=1
