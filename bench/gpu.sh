#!/usr/bin/env bash
# Everything that wants a GPU, in one command of under nine minutes, results in one folder:
#
#   bench/gpu.sh [FOLDER]     default: $OUT, else out/gpu. It gets log.txt, tests.txt, bench.json and bench.png
#     PYTHON=python3          the interpreter; needs torch for CUDA, scikit-build-core, pybind11, pytest, hypothesis, rich
#     WHEELS=folder           peers to install from there first (diffusers, k-diffusion, torchsde, trampoline, ...);
#                             nothing is fetched; a peer that is not there is listed as skipped
#     TOTAL=525               seconds for everything
#     DEVICE=cpu              a rehearsal: every part that a CPU can do, little time for each
#
# Builds the package for the GPU that is there, runs the tests that need one (bits equal among CUDA, Triton and CPU;
# capture, replay, streams, devices), compute-sanitizer on a small run, then the benchmarks, the most wanted first.
# Results are written as each part ends; one that fails or runs over its time is named at the end and does not stop
# the others.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1
to=${1:-${OUT:-out/gpu}} p=${PYTHON:-python3} device=${DEVICE:-cuda} total=${TOTAL:-525}
mkdir -p "$to"
to=$(cd "$to" && pwd)
log=$to/log.txt
: >"$log"
failed=()
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
export PYTHONUNBUFFERED=1 COLUMNS=150
say() { printf '%s\n' "$*" | tee -a "$log"; }

part() { # name, seconds it may take, lines to show, command
  local name=$1 limit=$2 lines=$3 left=$((total - SECONDS)) rc; shift 3
  [ "$limit" -le "$left" ] || limit=$left
  say "=== $SECONDS s   $name"
  if [ "$limit" -lt 5 ]; then failed+=("$name (no time left)"); return 1; fi
  timeout -s INT -k 5 "$limit" "$@" >"$scratch/$name.txt" 2>&1  # INT: pytest sums up what it has
  rc=$?
  cat "$scratch/$name.txt" >>"$log"
  tail -n "$lines" "$scratch/$name.txt"
  [ $rc -eq 0 ] || failed+=("$name ($rc)")
  return $rc
}

suite() { # name, seconds
  part "bench-$1" "$2" 60 "$p" -m bench "$1" --device "$device" --budget "$budget" --out "$scratch/bench-$1"
  "$p" - "$scratch" "$to" <<'PY' # what there is by now
import json, pathlib, sys
scratch, to = map(pathlib.Path, sys.argv[1:])
parts = [json.loads(f.read_text()) for f in sorted(scratch.glob("bench-*/bench.json"), key=lambda f: f.stat().st_mtime)]
if parts:
    rows = {k: v for part in parts for k, v in part["rows"].items()}
    (to / "bench.json").write_text(json.dumps({"machine": parts[0]["machine"], "rows": rows}, indent=1) + "\n")
PY
}

if [ "$device" = cpu ]; then
  export FASTDIFF_CUDA=off
  budget=0.05
else
  command -v nvidia-smi >/dev/null || { echo "no GPU here"; exit 1; }
  nvidia-smi >>"$log" && nvidia-smi -L
  capability=$("$p" -c 'import torch; print("%d%d" % torch.cuda.get_device_capability())') || { echo "torch sees no GPU"; exit 1; }
  command -v nvcc >/dev/null || export PATH="${CUDA_HOME:-/usr/local/cuda}/bin:$PATH"
  export FASTDIFF_CUDA=on FASTDIFF_CUDA_ARCHS="$capability-real"
  budget=0.15
fi
export CMAKE_BUILD_PARALLEL_LEVEL=${CMAKE_BUILD_PARALLEL_LEVEL:-$(nproc)}
export PYTHONPATH=$PWD:$scratch/site${PYTHONPATH:+:$PYTHONPATH}
quiet=(-q --disable-pip-version-check --no-index --no-deps)

if compgen -G "${WHEELS:-/nowhere}/*.whl" >/dev/null; then # not into site-packages, which may not be ours to write to
  part wheels 60 5 "$p" -m pip install "${quiet[@]}" --no-compile --target "$scratch/site" "$WHEELS"/*.whl
fi
part build 220 5 "$p" -m pip wheel "${quiet[@]}" --no-build-isolation -w "$scratch/wheel" . || { echo "not built: $log"; exit 1; }
"$p" - "$scratch"/wheel/*.whl <<'PY' || exit 1
import sys, zipfile
with zipfile.ZipFile(sys.argv[1]) as wheel:  # only what was compiled: the rest runs from here
    for name in wheel.namelist():
        if name.endswith((".so", ".pyd")):
            wheel.extract(name, ".")
PY
part info 30 20 "$p" -m fastdiff info

pytest=("$p" -m pytest -q -ra -p no:cacheprovider)
workers=()
! "$p" -c 'import xdist' 2>/dev/null || workers=(-n "$(($(nproc) < 8 ? $(nproc) : 8))" --dist worksteal)
part tests 130 30 "${pytest[@]}" "${workers[@]}" tests/ops/test_gpu.py tests/runtime/test_gpu.py tests/noise/test_seeds.py
cp "$scratch/tests.txt" "$to/"
if [ "$device" != cpu ] && command -v compute-sanitizer >/dev/null; then
  part sanitizer 45 15 compute-sanitizer --error-exitcode 1 "${pytest[@]}" -x tests/ops/test_gpu.py -k "(sizes or fills) and cuda"
fi

suite sampler 100
suite step 100
suite loss 40
suite brownian 30
suite noise 30
suite scaling 40
suite kdiffusion 40
suite diffusers 60
part picture 30 3 "$p" -c '
import json, pathlib, sys
from bench import _report
folder = pathlib.Path(sys.argv[1])
_report.plot(folder / "bench.png", json.loads((folder / "bench.json").read_text())["rows"])' "$to"

say "=== $SECONDS s   done; results in $to"
[ ${#failed[@]} -eq 0 ] || { printf 'failed: %s\n' "${failed[@]}" | tee -a "$log"; exit 1; }
