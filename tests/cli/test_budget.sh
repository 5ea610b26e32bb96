#!/bin/sh
# test_budget.sh - hours and dollars: `medrl plan` with a step that is measured and with a device that is not here; a run
# that ends when its budget is spent, and what a resume counts.
. "$(dirname "$0")/lib.sh"
cd "$temp" || exit 1
mkdir tmp
TMPDIR=$temp/tmp
export TMPDIR

number() { sed -n "s/.*\"$1\": \([-0-9.e+]*\).*/\1/p" "$temp/out"; }

# the published job on a T4: no model, no data, no GPU is needed to say it
run 0 plan recipes/medical_mix.lua --device-assume t4 --budget 3
prints "on a T4, which is not here: by its data sheet (320 GB/s, 65 TFLOP/s in fp16), of which 50 % are"
prints "data: not looked at"
prints "750 steps take 4.4 hours: 1.54 dollars at 0.35 an hour, under 3 dollars"
prints "Google Cloud"
run 0 plan recipes/medical_mix.lua --device-assume t4 --budget 1 --usd-per-hour 0.526
prints "2.31 dollars at 0.526 an hour, more than 1 dollars, which are spent after step 32"
run 0 plan recipes/medical_mix.lua --device-assume T4 --budget 3 --json
prints '"within_budget": true'
prints '"device": "T4"'
run 0 plan recipes/smoke.lua --device-assume h100 --set budget.usd_per_hour=2 --set budget.usd=1
prints "data: the longest prompt has "
prints "less than a cent at 2 dollars an hour, under 1 dollars"
run 2 plan recipes/smoke.lua --device-assume t5
says "want one of t4, l4, a10g"
run 71 plan recipes/medical_mix.lua --device-assume t4 --set model.load_in_4bit=false --set model.name=qwen2.5-7b

run 0 plan recipes/smoke.lua --dry-step --device cpu --threads 2 --usd-per-hour 0.35
prints "one step was made on "
prints "4 steps take "
run 0 plan recipes/smoke.lua --dry-step --device cpu --threads 2 --json --usd-per-hour 3600
prints '"dry_step": {"step_s": '
# a dollar a second
awk -v s="$(sed -n 's/.*"dry_step": {"step_s": \([0-9.e-]*\).*/\1/p' "$temp/out")" -v c="$(sed -n 's/.*"cost": {.*"usd": \([0-9.e-]*\).*/\1/p' "$temp/out")" \
    'BEGIN { exit !(c > 3.99 * s && c < 4.01 * s) }' || fail "four steps at a dollar a second"
run 2 plan recipes/smoke.lua --dry-step --device-assume t4
says "want one of them"
[ -z "$(ls tmp)" ] || fail "a temporary folder is left"

# a run that may cost a few steps: 100 dollars a second
run 0 run recipes/demo.lua --output o --device cpu --threads 2 --json --set grpo.max_steps=100000 \
    --set budget.usd=100 --set budget.usd_per_hour=360000
says "ended after step "
says "the budget of 100.00 dollars is spent: "
prints '"ended_early": "the budget of 100.00 dollars is spent'
steps=$(number steps)
[ "$steps" -gt 0 ] || fail "no step was made"
[ -e "o/checkpoint-$steps/MANIFEST" ] || fail "no checkpoint of step $steps"
[ -e o/adapter/adapter_config.json ] || fail "no adapter"
is "$(wc -l <o/metrics.jsonl)" "$steps"
cost=$(tail -1 o/metrics.jsonl | sed -n 's/.*"cost\/usd": \([0-9.]*\).*/\1/p')
# the first step is made while something is left, however slow the machine; later ones when they fit by those before
awk -v c="$cost" -v n="$steps" 'BEGIN { exit !(c > 0 && (c <= 150 || n == 1)) }' || fail "cost/usd is $cost, want at most 100"
# what was spent stays spent
run 0 resume o --device cpu --threads 2
says "the budget of 100.00 dollars is spent: "
is "$(wc -l <o/metrics.jsonl)" "$steps"
# hours alone
run 0 run recipes/smoke.lua --output h --device cpu --threads 2 --set budget.hours=1e-9
says "the budget of 1e-09 hours is spent: "
run 2 run recipes/smoke.lua --output n --set budget.usd=3
says "budget.usd_per_hour is not set"
passed
