#!/usr/bin/env bash
# Everything that wants a GPU, in one command of under nine minutes, results in one folder:
#
#   bench/gpu.sh [FOLDER]        default: $OUT, else out/gpu        PYTHON=python3 chooses the interpreter
#
# Builds the package in place for the GPU that is there, runs the tests that need one (bits equal among CUDA,
# Triton and CPU; capture, replay, streams, devices), compute-sanitizer on a small run, then the benchmarks.
# A part that fails or runs over its time is named at the end and does not stop the others.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
to=${1:-${OUT:-out/gpu}}
p=${PYTHON:-python3}
mkdir -p "$to"
to=$(cd "$to" && pwd)
failed=()

part() { # name, seconds it may take, command
  local name=$1 limit=$2; shift 2
  printf '\n=== %4d s   %s\n' "$SECONDS" "$name"
  timeout -k 5 "$limit" "$@" >"$to/$name.txt" 2>&1
  local rc=$?
  tail -n 25 "$to/$name.txt"
  [ $rc -eq 0 ] || failed+=("$name ($rc)")
  return $rc
}

command -v nvidia-smi >/dev/null || { echo "no GPU here"; exit 1; }
nvidia-smi | tee "$to/nvidia-smi.txt" | head -n 15
capability=$("$p" -c 'import torch; print("%d%d" % torch.cuda.get_device_capability())') || { echo "torch sees no GPU"; exit 1; }
export FASTDIFF_CUDA=on FASTDIFF_CUDA_ARCHS="$capability-real" CMAKE_BUILD_PARALLEL_LEVEL=${CMAKE_BUILD_PARALLEL_LEVEL:-$(nproc)}

part build 200 "$p" -m pip install -q --no-build-isolation --no-deps -e . || { echo "not built: $to/build.txt"; exit 1; }
part info 30 "$p" -m fastdiff info
part tests 120 "$p" -m pytest -q -m gpu tests/ops tests/noise tests/runtime
if command -v compute-sanitizer >/dev/null; then
  part sanitizer 60 compute-sanitizer --error-exitcode 1 "$p" -m pytest -q -x tests/ops/test_gpu.py -k "sizes or fills"
fi
part bench 180 "$p" -m bench step sampler noise scaling --device cuda --budget 0.2 --out "$to"

printf '\n=== %4d s   %s\n' "$SECONDS" "done; results in $to"
[ ${#failed[@]} -eq 0 ] || { printf 'failed: %s\n' "${failed[@]}"; exit 1; }
