#!/bin/sh
# test_tensorboard.sh - report_to: event files beside metrics.jsonl; a run that is killed and goes on holds each step once.
# Their bytes are read by tests/unit/record/test_tensorboard.c.
. "$(dirname "$0")/lib.sh"
cd "$temp" || exit 1

events() { echo "$1"/tensorboard/events.out.tfevents.*; }
run 0 run recipes/smoke.lua --output a --device cpu --threads 2 --set 'grpo.report_to=["tensorboard"]'
is "$(events a | wc -w)" 1
for name in train/reward train/rewards/xmlcount/mean train/completions/mean_length train/kl; do
    case $name in train/kl) want=0 ;; *) want=4 ;; esac # no reference, no KL
    is "$(grep -ao "$name"'.' "$(events a)" | grep -ac "$name[^_/a-z]")" "$want"
done
cp -r a b
rm -rf b/checkpoint-4 b/adapter
run 0 resume b --device cpu --threads 2
is "$(events b | wc -w)" 1
is "$(wc -c <"$(events b)")" "$(wc -c <"$(events a)")" # as many records of the same names
run 0 run recipes/smoke.lua --output c --device cpu --threads 2
[ ! -e c/tensorboard ] || fail "nobody asked for event files"
run 2 run recipes/smoke.lua --output d --set grpo.report_to=wandb
says 'want "tensorboard" or "none"; other programs read the event files: `wandb sync RUN/tensorboard`'
passed
