#!/usr/bin/env bash
# Runs undertone's benchmarks and those of its peers one after the other on one core, and writes one Markdown table.
#
#   peers/run.sh [TABLE]
#
# TABLE is a file; without it the table goes to standard output. What is missing on this machine is named and left out.
# Environment: PEERS_PYTHON, a Python that has the package openfhe (default: peers/.venv/bin/python); PEERS_CORE, the
# core to run on (default 0); RUNS, how often bootstraps are repeated (default 3).
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1
root=$PWD
table=${1:-/dev/stdout}
case $table in /*) ;; *) table=$OLDPWD/$table ;; esac
python=${PEERS_PYTHON:-peers/.venv/bin/python}
core=${PEERS_CORE:-0}
runs=${RUNS:-3}
target=${CARGO_TARGET_DIR:-}
case $target in "" | /*) ;; *) target=$OLDPWD/$target && export CARGO_TARGET_DIR=$target ;; esac
lines=$(mktemp -d)
trap 'rm -rf "$lines"' EXIT
missing=0

say() { printf '== %s\n' "$*" >&2; }
lack() { printf 'left out: %s\n' "$*" >&2; missing=1; }

pinned=()
if command -v taskset >/dev/null 2>&1; then
  pinned=(taskset -c "$core")
else
  lack "pinning to a core, because there is no taskset"
fi

# The result of a command goes into a file of JSON lines; a failure is named and the rest goes on.
measure() { # NAME COMMAND...
  local name=$1
  shift
  say "$name"
  if "${pinned[@]}" "$@" >"$lines/one"; then
    cat "$lines/one" >>"$lines/$name.jsonl"
  else
    lack "$name, because its command failed: $*"
  fi
}

say "building"
if cargo build --release --locked --bin undertone; then
  undertone=${target:-$root/target}/release/undertone
  version=$("$undertone" --version | sed 's/^undertone //')
  measure undertone "$undertone" bench ntt --threads 1 --json
  measure undertone "$undertone" bench rotate --threads 1 --json
  measure undertone "$undertone" bench multiply --threads 1 --json
  measure undertone "$undertone" bench bootstrap --threads 1 --runs "$runs" --json
else
  lack "undertone, because it does not build"
  version=unknown
fi

cd peers || exit 1
peers=${target:+$target/peers}
peers=${peers:-$root/peers/target}
if ! cargo build --release --locked --target-dir "$peers"; then
  echo "peers/ does not build, so there is no table; the results so far:" >&2
  cat "$lines"/*.jsonl
  exit 1
fi
measure tfhe-ntt "$peers/release/undertone-peers" ntt

# Poulpy needs a nightly compiler and these target features; they are kept from the builds that are compared with it.
features="-C target-feature=+avx512f,+avx512ifma,+avx512vl"
if ! grep -qw avx512ifma /proc/cpuinfo 2>/dev/null; then
  lack "Poulpy, because this processor has no AVX-512 IFMA"
elif ! cargo +nightly --version >/dev/null 2>&1; then
  lack "Poulpy, because it needs a nightly toolchain (rustup toolchain install nightly)"
elif ! RUSTFLAGS=$features cargo +nightly build --release --locked --features poulpy --target-dir "$peers/poulpy"; then
  lack "Poulpy, because it does not build"
else
  poulpy_runs=$runs
  if [ "$(awk '/^MemAvailable:/ { print int($2 / 1048576) }' /proc/meminfo)" -lt 21 ]; then
    lack "Poulpy's bootstrap, because its keys take 21 GiB of memory and less is available"
    poulpy_runs=0
  fi
  measure poulpy "$peers/poulpy/release/undertone-peers" poulpy 20 "$poulpy_runs"
fi

cd "$root" || exit 1
if ! command -v "$python" >/dev/null 2>&1; then
  lack "OpenFHE, because there is no $python; peers/README.md says how to make it, or set PEERS_PYTHON"
elif ! "$python" -c 'import openfhe' >/dev/null 2>&1; then
  lack "OpenFHE, because $python has no package openfhe that it can load; see peers/README.md"
else
  measure openfhe "$python" peers/openfhe_bench.py --runs "$runs"
fi

files=()
for name in undertone tfhe-ntt poulpy openfhe; do
  if [ -s "$lines/$name.jsonl" ]; then files+=("$lines/$name.jsonl"); fi
done
"$peers/release/undertone-peers" table "$version" "${files[@]}" >"$table" || exit 1
if [ "$missing" -ne 0 ]; then echo "the table is incomplete; the reasons stand above" >&2; fi
exit "$missing"
