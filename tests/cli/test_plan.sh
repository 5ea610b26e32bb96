#!/bin/sh
# test_plan.sh - `medrl plan`, what a cap makes of a run (nothing: the same adapter), refusals before loading, and
# `medrl bench --config` of the smallest shape.
. "$(dirname "$0")/lib.sh"
cd "$temp" || exit 1

number() { sed -n "s/.*\"$1\": \([0-9.e+-]*\).*/\1/p" "$temp/out"; }

run 0 plan recipes/smoke.lua --device cpu --threads 2
prints "examples/nano on "
prints "the longest prompt has "
prints "base: linears"
prints "optimizer states"
prints "together"
run 0 plan recipes/smoke.lua --device cpu --threads 2 --json
prints '"cap": null'
is "$(number prompts_at_once)" 2
total=$(number total)
is "$(number total_without_cap)" "$total"

# a cap: less where training takes most
low=$((total * 62 / 100 / 1000))K
run 0 plan recipes/smoke.lua --device cpu --threads 2 --json --vram "$low"
is "$(number prompts_at_once)" 2
is "$(number total_without_cap)" "$total"
prints '"groups_in_parts": false'
[ "$(number total)" -le $((total * 62 / 100)) ] || fail "the plan does not keep the cap"
[ "$(number logit_rows)" -lt 512 ] || fail "the rows of logits were not lowered"
run 0 plan recipes/smoke.lua --device cpu --threads 2 --vram "$low"
prints "to fit, it would like"
prints "rows of logits instead of"
run 0 plan recipes/smoke.lua --device cpu --threads 2 --vram $((total * 38 / 100 / 1000))K --set grpo.gradient_checkpointing=true
prints "1 prompts at once instead of 2"
prints "groups in parts, each with its prompt again"

run 0 run recipes/smoke.lua --device cpu --threads 2 --output all
run 0 run recipes/smoke.lua --device cpu --threads 2 --output low --vram "$low"
says "to fit, it would like"
run 0 hash all
all=$(cat "$temp/out")
run 0 hash low
is "$(cat "$temp/out")" "$all"

# refused, before the run folder is made, with a change that helps
run 71 run recipes/smoke.lua --device cpu --threads 2 --output none --vram 1M
says "vram is 1.0 MB"
[ ! -e none ] || fail "a refused run left a folder"
run 71 plan recipes/smoke.lua --device cpu --threads 2 --vram $((total * 38 / 100 / 1000))K
says "set grpo.gradient_checkpointing = true"
prints "the least that it takes"
run 0 plan recipes/smoke.lua --device cpu --threads 2 --vram $((total * 38 / 100 / 1000))K --set grpo.gradient_checkpointing=true
run 2 plan recipes/smoke.lua --vram 14X
says 'vram is "14X", want a size such as "14G"'

run 2 bench --config qwen2.5-4b
says 'no configuration is called "qwen2.5-4b", want one of qwen2.5-0.5b'
run 2 bench some-model --config qwen2.5-3b
says 'name one of them'
run 2 bench --rank 8
says 'an option of --config was given without it'
run 2 bench --config smollm2-135m --batch 1,x --device cpu
says '--batch is "1,x"'
run 0 bench --config smollm2-135m --store nf4 --rank 4 --prompt 8 --new 2 --group 2 --batch 1,2 --quick --json --device cpu
prints '"parameters": 134515008'
prints '"logp_diff_max": 0'
prints '"groups": 1'
planned=$(number planned_bytes)
taken=$(number taken_bytes)
awk -v p="$planned" -v t="$taken" 'BEGIN { exit !(p <= 1.03 * t && t <= 1.03 * p) }' ||
    fail "planned $planned bytes, taken $taken"
run 71 bench --config smollm2-135m --store nf4 --prompt 8 --new 2 --group 2 --quick --device cpu --vram 50M
says "the run needs at least"
passed
