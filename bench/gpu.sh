#!/usr/bin/env bash
# Everything that wants a GPU, in one command of under nine minutes, results in one folder:
#
#   bench/gpu.sh [FOLDER]     default: $OUT, else out/gpu
#     PYTHON=python3          the interpreter; needs torch for CUDA, scikit-build-core, pybind11, pytest, hypothesis, rich
#     WHEELS=folder           peers to install from there first (diffusers, k-diffusion, torchsde, trampoline ...);
#                             nothing is fetched; peers that are not there are skipped
#     DEVICE=cpu              a rehearsal: every part that a CPU can do, little time for each
#
# Builds the package in place for the GPU that is there, runs the tests that need one (bits equal among CUDA, Triton
# and CPU; capture, replay, streams, devices), compute-sanitizer on a small run, then the benchmarks, the most wanted
# first. Each part leaves its log and its results as it ends; one that fails or runs over its time is named at the end
# and does not stop the others. What is left of TOTAL seconds bounds the later parts.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
to=${1:-${OUT:-out/gpu}} p=${PYTHON:-python3} device=${DEVICE:-cuda} total=${TOTAL:-525}
mkdir -p "$to"
to=$(cd "$to" && pwd)
failed=()
export PYTHONUNBUFFERED=1

part() { # name, seconds it may take, command
  local name=$1 limit=$2 left=$((total - SECONDS)); shift 2
  [ "$limit" -le "$left" ] || limit=$left
  printf '\n=== %4d s   %s\n' "$SECONDS" "$name"
  if [ "$limit" -lt 5 ]; then failed+=("$name (no time left)"); return 1; fi
  timeout -k 5 "$limit" "$@" >"$to/$name.txt" 2>&1
  local rc=$?
  tail -n "${lines:-12}" "$to/$name.txt"
  [ $rc -eq 0 ] || failed+=("$name ($rc)")
  return $rc
}

suite() { # name, seconds, budget of a case: one after the other into one file each, so that a stop loses little
  lines=40 part "bench-$1" "$2" "$p" -m bench "$1" --device "$device" --budget "$3" --out "$scratch/$1"
  cp "$scratch/$1/bench.json" "$to/$1.json" 2>/dev/null
  cp "$scratch/$1/bench.png" "$to/$1.png" 2>/dev/null
}

gather() { # the suites' files as one, as `--compare` and the table of docs/performance.md take it
  "$p" - "$to" <<'PY'
import json, pathlib, sys
folder = pathlib.Path(sys.argv[1])
parts = [json.loads(f.read_text()) for f in sorted(folder.glob("*.json")) if f.name != "bench.json"]
whole = {"machine": parts[0]["machine"], "rows": {k: v for part in parts for k, v in part["rows"].items()}} if parts else {}
(folder / "bench.json").write_text(json.dumps(whole, indent=1) + "\n")
for f in folder.glob("*.json"):
    f.unlink() if f.name != "bench.json" else None
PY
}

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

if [ "$device" = cpu ]; then
  export FASTDIFF_CUDA=off
else
  command -v nvidia-smi >/dev/null || { echo "no GPU here"; exit 1; }
  nvidia-smi | tee "$to/nvidia-smi.txt" | head -n 15
  capability=$("$p" -c 'import torch; print("%d%d" % torch.cuda.get_device_capability())') || { echo "torch sees no GPU"; exit 1; }
  for home in "${CUDA_HOME:-}" /usr/local/cuda; do # nvcc is not always on the path
    command -v nvcc >/dev/null || [ ! -x "$home/bin/nvcc" ] || export PATH="$home/bin:$PATH"
  done
  export FASTDIFF_CUDA=on FASTDIFF_CUDA_ARCHS="$capability-real"
fi
export CMAKE_BUILD_PARALLEL_LEVEL=${CMAKE_BUILD_PARALLEL_LEVEL:-$(nproc)}

# Into folders of their own: the interpreter's site-packages may not be ours to write to.
export PYTHONPATH=$PWD:$scratch/site${PYTHONPATH:+:$PYTHONPATH}
offline=(--no-index --no-deps --no-compile --no-build-isolation --disable-pip-version-check -q)
if compgen -G "${WHEELS:-/nowhere}/*.whl" >/dev/null; then
  part wheels 60 "$p" -m pip install "${offline[@]}" --target "$scratch/site" "$WHEELS"/*.whl
fi
lines=4 part build 220 "$p" -m pip wheel --no-index --no-deps --no-build-isolation -w "$scratch/wheel" . || { echo "not built: $to/build.txt"; exit 1; }
"$p" - "$scratch"/wheel/*.whl <<'PY' || exit 1
import sys, zipfile
with zipfile.ZipFile(sys.argv[1]) as wheel:  # only what was compiled: the rest runs from here
    for name in wheel.namelist():
        if name.endswith((".so", ".pyd")):
            wheel.extract(name, ".")
PY
part info 30 "$p" -m fastdiff info
if [ "$device" = cpu ]; then
  part tests 120 "$p" -m pytest -q -p no:cacheprovider tests/ops/test_gpu.py tests/runtime/test_gpu.py
else
  part tests 130 "$p" -m pytest -q -p no:cacheprovider -m gpu tests/ops tests/noise tests/runtime
fi
if [ "$device" != cpu ] && command -v compute-sanitizer >/dev/null; then
  part sanitizer 50 compute-sanitizer --error-exitcode 1 "$p" -m pytest -q -x -p no:cacheprovider tests/ops/test_gpu.py -k "(sizes or fills) and cuda"
fi
if [ "$device" = cpu ]; then budget=0.05; else budget=0.15; fi
suite sampler 110 $budget
suite step 110 $budget
suite noise 30 $budget
suite loss 40 $budget
suite scaling 40 $budget
suite brownian 40 $budget
suite kdiffusion 40 $budget
suite diffusers 40 $budget
gather

printf '\n=== %4d s   %s\n' "$SECONDS" "done; results in $to"
[ ${#failed[@]} -eq 0 ] || { printf 'failed: %s\n' "${failed[@]}"; exit 1; }
