#!/bin/sh
# program.sh - the program itself on a GPU: a run with its workers, the same run killed and resumed, and what it refuses.
#
#   tests/gpu/program.sh MEDRL MODULE [STEPS]     MODULE: libmedrl_cuda.so; STEPS of the run (24)
#
# The emulated module will do (slow: a few steps).
. "$(dirname "$0")/lib_gpu.sh"
steps=${3:-24}
# refuses CODE TEXT WHAT ARGS...: exit code, and one line that begins with "medrl: " and contains TEXT
refuses() {
    code=$1 text=$2 what=$3
    shift 3
    "$medrl" "$@" >log 2>&1
    got=$?
    [ "$got" = "$code" ] && [ "$(grep -c '^medrl: ' log)" = 1 ] && grep '^medrl: ' log | grep -q -e "$text"
    result "$what (exit code $got)" $?
}
start() { # FOLDER: runs until it ends
    "$medrl" run recipes/demo.lua --device cuda:0 -o "$1" --set grpo.max_steps="$steps" --set grpo.save_steps=2 --set grpo.prompts_per_step=4 >log 2>&1
}

start whole
result "a run of $steps steps: $(grep '^reward  *[-0-9]' log | head -n 1)" $?

start cut &
pid=$!
tries=0
while [ ! -e cut/checkpoint-2/MANIFEST ] && [ $tries -lt 3000 ]; do
    sleep 0.02
    tries=$((tries + 1))
done
killed=$(ps -o pid= --ppid $pid 2>/dev/null | head -n 1)
kill -KILL "${killed:-$pid}"
wait $pid 2>/dev/null
last=$(wc -l <cut/metrics.jsonl)
[ "$last" -lt "$steps" ]
result "killed after step $last" $?
"$medrl" resume cut --device cuda:0 >log 2>&1
result "resumed" $?
a=$("$medrl" hash whole 2>>log) b=$("$medrl" hash cut 2>>log)
[ -n "$a" ] && [ "$a" = "$b" ]
result "the same adapter, killed or not (hash $(echo "$a" | cut -c1-12))" $?

# 4-bit weights, kept in 16 bits as well or not
for when in true false; do
    "$medrl" run recipes/demo.lua --device cuda:0 -o "kept-$when" --set grpo.max_steps=4 --set model.load_in_4bit=true --set model.dequantize=$when >log 2>&1
    result "4-bit weights, dequantize = $when" $?
done
a=$("$medrl" hash kept-true 2>>log) b=$("$medrl" hash kept-false 2>>log)
[ -n "$a" ] && [ "$a" = "$b" ]
result "the same adapter, dequantized or not (hash $(echo "$a" | cut -c1-12))" $?

refuses 71 "GB\|MB" "a model that does not fit" bench --config qwen2.5-3b --device cuda:0 --vram 1G
refuses 2 "cuda:99" "a GPU that is not there" plan recipes/demo.lua --device cuda:99
if [ -e /proc/driver/nvidia ]; then
    CUDA_VISIBLE_DEVICES="" refuses 2 "CUDA_VISIBLE_DEVICES" "no GPU" plan recipes/demo.lua --device cuda:0
fi
exit $failed
