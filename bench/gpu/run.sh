#!/usr/bin/env bash
# Builds the CUDA backend for the GPU of this machine, checks it and times it. JSON lines go to build-gpu/results/.
#
#   bench/gpu/run.sh              tests and kernel benches (a few minutes)
#   bench/gpu/run.sh --31b DIR    also a random checkpoint of the 31B: DIR wants 105 GB, best in memory (tmpfs); needs Python with
#                                 torch and transformers; its logits are compared with transformers' on the BF16 weights
set -euo pipefail
cd "$(dirname "$0")/../.."
large=
[ "${1:-}" = --31b ] && large=${2:?--31b wants a directory}
build=build-gpu results=$PWD/build-gpu/results
cmake -S . -B $build -G Ninja -DCMAKE_BUILD_TYPE=Release -DHLWQ_BENCH=ON -DHLWQ_CUDA=ON -DHLWQ_CUDA_ARCHITECTURES=native >/dev/null
ninja -C $build hlwq cuda_test $(basename -s .cu bench/gpu/*.cu | sed 's/^/gpu_/')
mkdir -p "$results"

$build/cuda_test | tee "$results/test.log"
for bench in linear attention vision experts encode; do
  echo "== $bench"
  $build/gpu_${bench}_bench | tee "$results/$bench.jsonl"
done
python3 bench/gpu/peers.py tests/golden/configs/gemma-4-31B.json | tee "$results/peers.jsonl" || echo "no PyTorch here to measure beside"
[ -n "$large" ] || exit 0

python3 bench/gpu/random_checkpoint.py make tests/golden/configs/gemma-4-31B.json "$large/bf16"
python3 bench/gpu/random_checkpoint.py reference "$large/bf16" "$large/ids.txt" "$large/reference.npy"
for policy in default-l2 q5 q4-l2; do
  $build/hlwq quantize "$large/bf16" -o "$large/hlwq" --device cuda --policy $policy
  $build/gpu_model_bench "$large/hlwq" --ids "$large/ids.txt" --logits "$large/logits.f32" --contexts 128,8192,32768,131072,262144 \
    --kv 16,4,3 --prefill 512,4096,32768 --chunk 2048 | tee "$results/31b-$policy.jsonl"
  python3 bench/gpu/random_checkpoint.py compare "$large/reference.npy" "$large/logits.f32" | tee -a "$results/31b-$policy.jsonl"
  rm -rf "$large/hlwq"
done
