#!/usr/bin/env bash
# All that a GPU is needed for, in order of worth, within BUDGET seconds; each step has written before the next begins.
#
#     bash benchmarks/on_gpu.sh
#     BUDGET=720 OUT=runs/gpu PYTHON=python3 CIFAR=uoft-cs/cifar10 SEEDS=4 EPOCHS=100 WORKERS=16 bash benchmarks/on_gpu.sh
#
# OUT gets steps.csv (what ran, its seconds, its exit code), a log of each step, and the results as CSV with the GPU's
# name. Without a GPU the parts for a CPU run, small, and the rest is named as not run.
set -uo pipefail
cd "$(dirname "$0")/.."
BUDGET=${BUDGET:-720}
OUT=${OUT:-runs/gpu-$(date +%Y%m%d-%H%M%S)}
CIFAR=${CIFAR:-uoft-cs/cifar10} # a name on the hub, or a folder or file as steelyard compare takes it
SEEDS=${SEEDS:-4}
EPOCHS=${EPOCHS:-100}
WORKERS=${WORKERS:-16}
if [ -z "${PYTHON:-}" ]; then
  PYTHON=python3
  [ -x .venv/bin/python ] && PYTHON=.venv/bin/python
fi
case $PYTHON in */*) PYTHON=$(cd "$(dirname "$PYTHON")" && pwd)/$(basename "$PYTHON") ;; esac
export PYTHONPATH=src PYTHONUNBUFFERED=1
LOSSES=softmax,softmax:tau=1,logistic,lgl-inr:tau=1
mkdir -p "$OUT"
rows="step,seconds,exit"
failed=0

write() { # the steps so far, to a file beside it that is then renamed
  printf '%s\n' "$rows" >"$OUT/.steps.csv" && mv "$OUT/.steps.csv" "$OUT/steps.csv"
}

note() { # a step that did not run, and why
  echo "== $1: not run, $2"
  rows+=$'\n'"$1,0,not run: $2"
  write
}

step() { # name, most seconds, command: within what is left of the budget
  local name=$1 most=$2 left=$((BUDGET - SECONDS)) began=$SECONDS code
  shift 2
  [ "$left" -gt 10 ] || { note "$name" "no time is left"; return; }
  [ "$most" -lt "$left" ] || most=$left
  echo "== $name, at most $most s"
  timeout --kill-after=10 "$most" "$@" 2>&1 | tee "$OUT/$name.log"
  code=${PIPESTATUS[0]}
  [ "$code" -eq 0 ] || failed=1
  [ "$code" -ne 124 ] || echo "== $name: stopped at its $most s; what it had written stays in $OUT"
  rows+=$'\n'"$name,$((SECONDS - began)),$code"
  write
}

compare() { # data, epochs, seeds, workers, further options
  local data=$1 epochs=$2 seeds=$3 workers=$4
  shift 4
  "$PYTHON" -m steelyard compare --dataset "$data" --imbalance exponential:100 --losses "$LOSSES" \
    --batch-size 128 --learning-rates 0.1 --epochs "$epochs" --seeds "$seeds" --workers "$workers" --no-rows "$@"
}
export -f compare
export PYTHON LOSSES

if "$PYTHON" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
  step kernels 180 "$PYTHON" -m pytest -q -p no:cacheprovider tests/kernels/triton_on_device.py
  step logits 200 "$PYTHON" benchmarks/gpu.py --only logits --rounds 20 --out "$OUT/logits.csv"
  step heads 150 "$PYTHON" benchmarks/gpu.py --only heads --rounds 10 --out "$OUT/heads.csv"
  step cifar "$BUDGET" bash -c 'compare "$@"' compare "$CIFAR" "$EPOCHS" "$SEEDS" "$WORKERS" --backbone resnet32 \
    --augmentation crop-flip --precision bf16-mixed --accelerator gpu --out "$OUT/cifar"
else
  echo "No GPU: torch sees no CUDA device. The parts for a CPU run, small."
  step kernels-interpreted 420 env TRITON_INTERPRET=1 OMP_NUM_THREADS=1 "$PYTHON" -m pytest -q -p no:cacheprovider \
    -x tests/kernels/triton_on_device.py
  step compare-small 200 bash -c 'compare "$@"' compare digits 1 1 1 --backbone small-cnn --accelerator cpu \
    --out "$OUT/digits"
  for name in logits heads cifar; do note "$name" "it needs a GPU"; done
fi
echo "== $SECONDS s in all; $OUT/steps.csv says what ran"
exit "$failed"
