#!/bin/sh
# test_numbers.sh - a NaN or an infinity at each place where one can come from, in the first step and in the third: what is counted, what is
# skipped, what ends the run with its reason, and that the run can go on from its last checkpoint as if nothing had been. The test build
# makes them: faults.c, numbers.c.
. "$(dirname "$0")/../cli/lib.sh"
. "$(dirname "$0")/lib_faults.sh"
short_run 6
sed 's/optim = "adamw_8bit"/optim = "adamw_torch"/; s/max_steps = 6/max_steps = 12/' short.lua >short.lua.new && mv short.lua.new short.lua

run 0 run short.lua -o clean -q
clean=$(hash_of clean)
without_clock clean >clean.metrics

# bad CODE FOLDER ORDER [MORE...]: a run with that order, which was played
bad() {
    code=$1 folder=$2
    MEDRL_FAULT=number:$3 MEDRL_FAULT_LOG=$temp/log
    shift 3
    rm -f "$temp/log"
    export MEDRL_FAULT MEDRL_FAULT_LOG
    run "$code" run short.lua -o "$folder" -q "$@"
    unset MEDRL_FAULT MEDRL_FAULT_LOG
    [ -s "$temp/log" ] || fail "nothing was played"
}
last_metric() { tail -n 1 "$1/metrics.jsonl" | grep -oE "\"$2\": [^,}]*" | sed 's/.*: //'; }
metric_at() { sed -n "$2p" "$1/metrics.jsonl" | grep -oE "\"$3\": [^,}]*" | sed 's/.*: //'; }
warnings() { grep -c '"kind": "warning"' "$1/events.jsonl" || true; }
# Nothing that is not finite is left behind: JSON has no word for it, and the masters are checked when a checkpoint is written.
goes_on() { # FOLDER STEP: one update less, counted and said once
    is "$(wc -l <"$1/metrics.jsonl" | tr -d ' ')" 12
    is "$(last_metric "$1" skipped_updates)" 1
    is "$(warnings "$1")" 1
    says "warning: step $2: "
    says "the update is skipped (1 in a row)"
    head -n $(($2 - 1)) clean.metrics >want
    without_clock "$1" | head -n $(($2 - 1)) >got
    cmp want got >&2 || fail "$1: steps before the fault differ"
    [ -e "$1/adapter" ] || fail "$1: no adapter"
}
as_if_nothing_had_been() { # FOLDER: continued, it is the clean run
    run 0 resume "$1" -q
    is "$(hash_of "$1")" "$clean"
    without_clock "$1" >got
    cmp clean.metrics got >&2 || fail "$1: the metrics differ"
}

for step in 1 3; do
    for value in nan inf; do
        bad 0 "logit-$step-$value" "$step:logit/$value"
        goes_on "logit-$step-$value" $step
        says "the loss is not finite"
        bad 0 "grad-$step-$value" "$step:grad/$value"
        goes_on "grad-$step-$value" $step
        says "a gradient is not finite"

        # a reward that is no number is counted and takes no part; the update is made
        folder=reward-$step-$value
        bad 0 $folder "$step:reward/$value"
        is "$(metric_at $folder $step rewards/faults)" 1
        is "$(grep -c '"rewards/faults": 0' $folder/metrics.jsonl)" 11
        is "$(warnings $folder)" 0
        is "$(last_metric $folder skipped_updates)" ""
        is "$(sed -n "$(((step - 1) * 8 + 1))p" $folder/samples.jsonl | grep -oE '"reward": [^,]*, "advantage": [^,]*')" \
            '"reward": null, "advantage": 0'

        # a second moment that is NaN makes weights that are: the step ends the run, and the checkpoints before it stand
        folder=adam-$step-$value
        bad 70 $folder "$step:adam/$value"
        if [ $value = nan ]; then
            says "medrl: $folder: step $step: weights are not finite any more, and are not saved; first bad: the weights of model.layers.0.self_attn.q_proj.lora_A ($folder/nan-$step); go on from the last checkpoint"
            is "$(cat $folder/metrics.jsonl | wc -l | tr -d ' ')" $((step - 1))
            grep -q '"first_bad": "the weights of model.layers.0.self_attn.q_proj.lora_A"' $folder/nan-$step/layers.json || fail "layers.json"
            is "$(grep -oE '"name": "[a-z_.0-9]*lora_A", "max": [^,]*, "finite": false' $folder/nan-$step/layers.json | wc -l | tr -d ' ')" 1
            grep -q '"completions": \[{"text": ' $folder/nan-$step/batch.json || fail "batch.json"
        else # the parameter would stand still for ever and nobody would see it: no checkpoint holds such a state
            says "the optimizer's \"model.layers.0.self_attn.q_proj.lora_A.v\" is not finite and is not saved"
            [ ! -e $folder/checkpoint-$((step + 1)) ] || fail "$folder: a checkpoint with an infinity"
        fi
        [ ! -e $folder/adapter ] || fail "$folder: an adapter came out of it"
        if [ $step = 3 ]; then as_if_nothing_had_been $folder; fi

        # float16: a scale that halving cannot bring back begins anew
        folder=scale-$step-$value
        bad 0 $folder "$step:scale/$value" --set model.dtype=float16
        is "$(last_metric $folder skipped_updates)" 1
        is "$(last_metric $folder loss_scale)" 65536
        says "warning: step $step: loss_scale is $value, which is no power of two; the update is skipped (1 in a row), and the scale begins anew at 65536"
    done
done
# float16: the scale is halved, once for each update that does not fit
bad 0 half '3:grad/inf,number:5:grad/nan' --set model.dtype=float16
is "$(last_metric half skipped_updates)" 2
is "$(last_metric half loss_scale)" 16384
says "a gradient does not fit into float16; the update is skipped (1 in a row), loss_scale 65536 -> 32768"

# eight in a row: the end, with the first bad place in the one line
bad 70 grads '3+:grad/nan'
says "medrl: grads: step 10: 8 updates in a row had gradients that are not finite; first bad: the gradient of model.layers.2.self_attn.q_proj.lora_A (grads/nan-10); lower learning_rate"
is "$(last_metric grads skipped_updates)" 8
bad 70 huge '2:weight/huge'
says "medrl: huge: step 9: 8 updates in a row had a loss that is not finite; first bad: the output of model.layers.3.self_attn (huge/nan-9)"
grep -q '{"name": "model.layers.2.mlp", "max": [0-9.e+]*, "finite": true}, {"name": "model.layers.3.self_attn", "max": [0-9.e+]*, "finite": false}' \
    huge/nan-9/layers.json || fail "layers.json does not show where it begins"
# what is resumed there has the same reason to stop, at its first step
export MEDRL_FAULT=number:10+:grad/nan
run 70 resume grads -q
unset MEDRL_FAULT
says "step 11: 9 updates in a row"
# weights that went bad between two steps, by whatever: seen at once, not after eight steps, and no checkpoint has them
bad 70 weight '4:weight/nan'
says "medrl: weight: step 4: weights are not finite any more, and are not saved; first bad: the weights of model.layers.3.self_attn.v_proj.lora_B (weight/nan-4)"
as_if_nothing_had_been weight
# a folder that cannot be written costs a warning, not the reason
export MEDRL_FAULT_BELOW=/nan-
bad 70 full '4:weight/nan,mkdir:1+:ENOSPC'
unset MEDRL_FAULT_BELOW
says "warning: full/nan-4: folder could not be made: No space left on device"
says "first bad: the weights of model.layers.3.self_attn.v_proj.lora_B"
passed
