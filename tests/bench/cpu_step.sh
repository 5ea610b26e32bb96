#!/bin/sh
# cpu_step.sh - a GRPO step of SmolLM2-135M's shape by medrl and by the PyTorch loop in turn, on two threads, and the ratios of their medians. Random weights: no file
# is needed. medrl: a process of three steps; PyTorch: one step after one that warms up.
#
#     PYTHON=/tmp/bench-venv/bin/python tests/bench/cpu_step.sh [ROUNDS [OUT]]     ROUNDS: 3; OUT: a folder for the outputs
#
# Wants build/medrl, and nothing else running; on a machine of more cores two of them are taken. docs/performance.md, "A CPU with AMX".
set -eu
cd "$(dirname "$0")/../.."
rounds=${1:-3} out=${2:-$(mktemp -d "${TMPDIR:-/tmp}/medrl-bench.XXXXXX")} python=${PYTHON:-python3}
mkdir -p "$out"
pin=''
[ "$(nproc)" -le 2 ] || pin='taskset -c 0,1'
for i in $(seq "$rounds"); do
    echo "round $i: load $(cut -d' ' -f1-3 /proc/loadavg)"
    $pin build/medrl bench --config smollm2-135m --store bf16 --rank 16 --prompts 4 --group 6 --prompt 250 --new 48 --no-gradient-checkpointing \
        --batch 6 --device cpu --threads 2 --quick --repeats 3 >"$out/medrl.$i" 2>"$out/medrl.$i.log"
    grep '^step\|^limits' "$out/medrl.$i.log"
    grep 'a copy, read' "$out/medrl.$i"
    $pin "$python" tests/bench/peers/torch_grpo.py random --steps 1 --no-merged --threads 2 >"$out/torch.$i" 2>"$out/torch.$i.log"
    tail -n 1 "$out/torch.$i"
done
"$python" - "$out" "$rounds" <<'P'
import json, re, statistics, sys

out, rounds = sys.argv[1], int(sys.argv[2])
medrl, torch = [], []
for i in range(1, rounds + 1):
    steps = re.findall(r"^step \d+ of \d+: ([\d.]+) s \(rollout ([\d.]+), training ([\d.]+)\)", open(f"{out}/medrl.{i}.log").read(), re.M)
    medrl.append([statistics.median(column) for column in zip(*[map(float, step) for step in steps])])
    torch.append(json.loads(open(f"{out}/torch.{i}").read().splitlines()[-1]))
for k, (what, key) in enumerate((("step", "step_s"), ("rollout", "rollout_s"), ("training", "train_s"))):
    for i in range(rounds):
        ours, theirs = medrl[i][k], torch[i][key]
        print(f"round {i + 1}  {what:10} medrl {ours:6.2f} s   PyTorch {theirs:6.2f} s   ratio {theirs / ours:.2f}")
P
