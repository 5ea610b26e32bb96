#!/bin/sh
# test_long.sh - a long run stays flat: thousands of steps with reloads, attached sessions and checkpoints; the memory of the process must
# not grow with the steps, its descriptors and children stay as many as they are, and no zombie is left.
#
#     test_long.sh MEDRL_FAULTY [STEPS]     STEPS: how many at least (2000); 100000 is the nightly one
#
# However fast the machine, the steps take 20 seconds or more: what is done beside them takes its time too.
# Source: reliability.md P15.
. "$(dirname "$0")/../cli/lib.sh"
. "$(dirname "$0")/lib_faults.sh"
steps=${2-2000} reloads=20 attaches=50 checkpoints=20
mkdir rewards
reward() { echo "return { range = { 0, 1 }, score = function(text) return (#text + $1) % 7 / 7 end }" >rewards/mine.lua; }
cat >long.lua <<LUA
local data = require "medrl.data"
return {
  model   = { name = "examples/nano", max_seq_length = 64, load_in_4bit = false },
  lora    = { r = 2, lora_alpha = 4, target_modules = { "q_proj" } },
  data    = { system = "", train = data.get("nano_tasks", { n = 24, seed = 5 }) },
  rewards = { "mine" },
  grpo    = { learning_rate = 1e-5, optim = "adamw_8bit", prompts_per_step = 1, num_generations = 4, max_prompt_length = 48,
              max_completion_length = 8, max_steps = $steps, save_steps = $steps, save_total_limit = 2,
              logging_steps = 100000, sample_steps = 0, gradient_checkpointing = false, guards = false, seed = 7 },
}
LUA
reward 1
steps_for 20 "$steps" long.lua
steps=$((steps / checkpoints * checkpoints))
"$medrl" run long.lua -o long -q --threads 1 --set grpo.max_steps=$steps --set grpo.save_steps=$((steps / checkpoints)) >out 2>err </dev/null &
pid=$!
step_now() { n=0; [ ! -e long/metrics.jsonl ] || n=$(wc -l <long/metrics.jsonl); }
step_now
did_reload=0 did_attach=0 zombies=0 dead_before=''
: >samples
while kill -0 $pid 2>/dev/null; do
    step_now
    [ "$n" -lt "$steps" ] || break
    if [ $did_reload -lt $reloads ] && [ "$n" -ge $(((did_reload + 1) * steps / (reloads + 1))) ]; then
        did_reload=$((did_reload + 1))
        reward $((did_reload + 1))
    fi
    if [ $did_attach -lt $attaches ] && [ "$n" -ge $(((did_attach + 1) * steps * 8 / 10 / attaches)) ]; then
        "$medrl" attach long -e 'run.step' -e 'run:metrics(1)' >attach.out 2>attach.err </dev/null || { [ ! -S long/control.sock ] || fail "attach $did_attach failed: $(cat attach.err)"; }
        did_attach=$((did_attach + 1))
    fi
    memory=$(awk '/^VmRSS/ { print $2 }' /proc/$pid/status 2>/dev/null)
    files=$(ls /proc/$pid/fd 2>/dev/null | wc -l)
    children=$(ps -o stat= --ppid $pid 2>/dev/null | wc -l)
    # a child is dead for the moment until its parent, which waits for it, runs: left dead is one that two looks meet
    dead=$(ps -o stat=,pid= --ppid $pid 2>/dev/null | sed -n 's/^Z[^ ]* *//p')
    for child in $dead; do
        case " $dead_before " in *" $child "*) zombies=$((zombies + 1)) ;; esac
    done
    dead_before=$(echo $dead)
    [ -z "$memory" ] || [ "$n" = 0 ] || echo "$n $memory $files $children" >>samples
    sleep 0.05
done
code=0
wait $pid || code=$?
[ $code = 0 ] || fail "the run: exit code $code"
is "$(wc -l <long/metrics.jsonl)" "$steps"
is "$did_attach" "$attaches"
taken=$(grep -c '"kind": "reload"' long/events.jsonl)
[ "$taken" -ge $((reloads - 1)) ] || fail "only $taken of $reloads reloads were taken over"
is "$(grep -c '"kind": "checkpoint"' long/events.jsonl)" "$checkpoints"
[ $zombies = 0 ] || fail "a zombie was seen $zombies times"
[ "$(wc -l <samples)" -ge 40 ] || fail "only $(wc -l <samples) looks at the process"
# least squares over the last 75 % of the steps, in bytes a step; descriptors while nobody is attached or reloads: the most frequent number
slope=$(awk -v from=$((steps / 4)) '$1 >= from { k++; x += $1; y += $2; xx += $1 * $1; xy += $1 * $2 } END { printf "%.0f", 1024 * (k * xy - x * y) / (k * xx - x * x) }' samples)
usual() { awk -v c="$1" -v from="$2" -v to="$3" '$1 >= from && $1 < to { if (++n[$c] > most) { most = n[$c]; v = $c } } END { print v }' samples; }
for column in 3 4; do is "$(usual $column $((steps * 3 / 4)) $((steps + 1)))" "$(usual $column $((steps / 8)) $((steps / 2)))"; done
[ "$slope" -le 1024 ] || fail "memory grows by $slope bytes a step, want at most 1024"
echo "score: rss_slope_bytes_per_step $slope 1024"
echo "score: long_run_steps $steps 2000"
echo "score: zombies $zombies 0"
echo "$steps steps, $taken reloads, $did_attach attached sessions, $(tail -n 1 samples | cut -d' ' -f2) KiB, $slope bytes a step"
passed
