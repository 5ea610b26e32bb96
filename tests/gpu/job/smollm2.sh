#!/bin/sh
# smollm2.sh - a real GRPO run on a GPU: SmolLM2-135M-Instruct, 30 steps of the recipe's small part (small_mix.lua). The reward must rise.
#
#   tests/gpu/job/smollm2.sh MEDRL MODULE [STEPS]
#
# MEDRL_SMOLLM2: the model, smollm2-135m-instruct.gguf as `./bootstrap fetch` brings it; without it nothing is run, and a line says so.
# Prints the mean reward of three steps at a time beside those of the same settings on a CPU (docs/performance.md).
if [ ! -r "${MEDRL_SMOLLM2-}" ]; then
    echo "SKIP  smollm2: MEDRL_SMOLLM2 is \"${MEDRL_SMOLLM2-}\", want the path of smollm2-135m-instruct.gguf"
    exit 77
fi
here=$(cd "$(dirname "$0")" && pwd) model=$(realpath "$MEDRL_SMOLLM2") steps=${3:-30}
. "$here/../lib_gpu.sh"
cpu="0.60 0.92 1.66 1.91 2.24 2.10 2.26 2.42 2.76 2.61" # recipes/medical_mix.lua without a GPU, avx512_bf16

start=$(date +%s.%N)
"$medrl" run "$here/small_mix.lua" --device "${MEDRL_DEVICE:-cuda:0}" --set model.name="$model" --set grpo.max_steps="$steps" -o run >log 2>&1
rc=$?
took=$(date +%s.%N | awk -v t="$start" '{ printf "%.1f", $1 - t }')
if [ $rc != 0 ]; then
    echo "FAIL  smollm2: exit code $rc after $took s"
    tail -n 8 log
    exit 1
fi
sed -n 's/.*"reward": *\([-0-9.e+]*\).*/\1/p' run/metrics.jsonl |
    awk -v cpu="$cpu" -v took="$took" -v steps="$steps" '
        { sum += $1; if (NR % 3 == 0) { mean[++n] = sum / 3; sum = 0 } }
        END {
            split(cpu, other, " ")
            printf "reward  here:"
            for (i = 1; i <= n; i++) printf " %5.2f", mean[i]
            printf "\nreward  CPU: "
            for (i = 1; i <= n; i++) printf " %5s", other[i]
            rise = mean[n] - mean[1]
            ok = NR == steps && rise > (steps < 30 ? 0.2 : 1)
            printf "\n%s  smollm2: %d steps in %s s, reward %.2f to %.2f\n", ok ? "PASS" : "FAIL", NR, took, mean[1], mean[n]
            exit !ok
        }'
