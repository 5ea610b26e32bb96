#!/bin/sh
# test_reload.sh - files that are saved while a run trains: what takes over, what is refused, and that a run which is killed
# anywhere around it and continued has the bits of the run that was never stopped.
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/lib_live.sh"
tiny_model tiny_smollm2
cd "$temp" || exit 1
mkdir -p recipes rewards
steps=400

# --- the files of the run, version by version; with hold=1 only written beside, so that two can be renamed at once
hold=
own() { # VERSION -> rewards/own.lua, written beside and renamed, as editors do
    case $1 in
    1) body='return #c % 3' ;;
    2) body='local _, n = c:gsub("[aeiou]", "") return n % 5 + 0.1' ;; # no mean of a batch is one of version 1
    3) body='return (#c + require("lib").extra) % 4' ;;
    esac
    printf '%s\n' 'local M = { name = "own", range = { 0, 6 } }' "function M.score(c) $body end" \
        'M.cases = { { "", {}, M.score("") } }' 'return M' >rewards/own.lua.new
    [ -n "$hold" ] || mv rewards/own.lua.new rewards/own.lua
}
lib() { printf 'return { extra = %s }\n' "$1" >lib.lua.new && mv lib.lua.new lib.lua; }
recipe() { # RATE TEMPERATURE ROWS RANK REWARDS
    cat >recipes/live.lua.new <<LUA
local data = require "medrl.data"
return {
  model   = { name = "$temp/tiny", max_seq_length = 256 },
  lora    = { r = $4, lora_alpha = 8, target_modules = { "q_proj", "v_proj" } },
  data    = { system = "", train = data.get("nano_tasks", { n = $3, seed = 5 }) },
  rewards = { $5 },
  grpo    = { learning_rate = $1, temperature = $2, optim = "adamw_torch", prompts_per_step = 2, num_generations = 4,
              max_prompt_length = 200, max_completion_length = 24, max_steps = $steps, save_steps = 40, logging_steps = 100,
              sample_steps = 0, gradient_checkpointing = false, seed = 7 },
}
LUA
    [ -n "$hold" ] || mv recipes/live.lua.new recipes/live.lua
}
first_files() { own 1; lib 1; recipe 1e-3 1 24 4 '"own"'; }

# --- a run that sees every kind of change, and is never stopped
first_files
start whole
wait_step 30
own 2
wait_event 'rewards/own.lua: taken over (1 case passed; last batch: own '
wait_step 80
recipe 5e-4 0.8 24 4 '{ name = "own", weight = 0.5 }'
wait_event 'grpo.learning_rate 0.001 -> 0.0005 (recipe)'
wait_event 'grpo.temperature 1 -> 0.8 (recipe)'
wait_event 'reward_weights {\"own\": 1} -> {\"own\": 0.5} (recipe)'
wait_step 130
own 3
wait_event '; last batch'
wait_step 170
lib 2
wait_event 'lib.lua: taken over ('
wait_step 200
printf 'return {\n  score = function() return 1 end,,\n}\n' >rewards/own.lua.new
mv rewards/own.lua.new rewards/own.lua
wait_event 'rewards/own.lua:2: unexpected symbol near'
wait_step 220
hold=1
own 3
recipe 5e-4 0.8 30 8 '{ name = "own", weight = 0.5 }'
hold=
mv rewards/own.lua.new rewards/own.lua
mv recipes/live.lua.new recipes/live.lua
wait_event 'lora.r is 8 instead of 4 (the adapter was made with it): cannot change in a run, the old value stays'
wait_event 'data.train has 30 rows now, their order begins anew'
wait_step 260
recipe 5e-4 0.8 30 8 '{ name = "own", weight = 0.5 }, "xmlcount"'
wait_event 'recipes/live.lua: taken over (9 cases passed; last batch: xmlcount - ->'
finish 0
is "$(wc -l <whole/metrics.jsonl | tr -d ' ')" $steps
has whole/metrics.jsonl '"rewards/xmlcount/mean"'
is "$(grep -c '"kind": "reload"' whole/events.jsonl)" 7
is "$(tail -1 whole/metrics.jsonl | grep -o '"scripts/version": [0-9]*')" '"scripts/version": 7'
for sha in $(grep '"kind": "reload"' whole/events.jsonl | grep -oE '[0-9a-f]{64}' | sort -u); do
    [ -s "whole/scripts/$sha.lua" ] || [ -s "whole/scripts/$sha.jinja" ] || fail "scripts/$sha.* is not there"
done

# --- that run, ended at any place after a checkpoint
all=$(wc -l <whole/events.jsonl)

# everything is repeated from the first checkpoint, from one in the middle, from the last; the files are those of the end
for c in 40 200 320; do
    crash cut $c $((steps - 3)) "$all"
    run 0 resume cut
    same_run whole cut
done
# the files on disk play no part in it: even none at all, until the record ends
crash cut 80 $steps "$all"
mkdir away
mv recipes rewards lib.lua away/
run 0 resume cut
same_run_hash() { hash_of "$1"; want=$hash; hash_of "$2"; is "$hash" "$want"; }
same_run_hash whole cut
mv away/* .
# killed between the event and the step, before it, and between the events of one change
n=$(line_of 'grpo.learning_rate 0.001 -> 0.0005')
k=$(step_of "$n")
first_files
own 2
recipe 5e-4 0.8 24 4 '{ name = "own", weight = 0.5 }'
for lines in $((n - 2)) $((n - 1)) "$n"; do
    crash cut 80 "$k" "$lines"
    run 0 resume cut --on-error pause
    without_clock cut | head -n $((k + 30)) >a.metrics
    without_clock whole | head -n $((k + 30)) >b.metrics
    cmp a.metrics b.metrics >&2 || fail "killed at line $lines of the events: the metrics differ"
    checks=$((checks + 1))
done
# killed once more while it repeats: nothing of the rest is lost
own 3
lib 2
recipe 5e-4 0.8 30 8 '{ name = "own", weight = 0.5 }, "xmlcount"'
crash cut 80 $((steps - 1)) "$all"
folder=cut
"$medrl" resume cut >"$temp/out" 2>"$temp/err" </dev/null &
pid=$!
waited=0
until grep -q '"resumed at step 80"' cut/events.jsonl; do # the record is cut by then
    alive
    sleep 0.01
    waited=$((waited + 1))
    [ $waited -lt 3000 ] || fail "it does not resume"
done
wait_step 100
kill -KILL $pid
code=0
wait $pid 2>/dev/null || code=$?
is "$code" 137
[ -s cut/journal.json ] || fail "the rest of the journal is not kept"
run 0 resume cut
same_run whole cut

# --- a real kill -9 in the middle of real saves, against the same changes repeated from the first checkpoint
first_files
start killed
wait_step 60
own 2
wait_event 'rewards/own.lua: taken over'
wait_step 100
recipe 2e-3 1.1 24 4 '"own"'
wait_event 'grpo.temperature 1 -> 1.1 (recipe)'
kill -KILL $pid
wait $pid 2>/dev/null
own 3 # saved while nothing ran: taken over where the record ended
run 0 resume killed
has killed/events.jsonl 'lib'
cp -r killed whole2
rm -rf whole2/adapter
for c in whole2/checkpoint-*; do [ "${c##*-}" -le 40 ] || rm -rf "$c"; done
run 0 resume whole2
same_run killed whole2

# --- a reward that breaks pauses the run, which goes on when the file is mended
first_files
start paused --set grpo.max_steps=60
wait_step 5
printf 'return { name = "own", score = function(c)\n  if #c > 0 then error("no idea") end\n  return 0 end }\n' >rewards/own.lua
sleep 0.3
finish 0
lacks paused/events.jsonl '"pause"' # the last batch refuses such a version
has paused/events.jsonl 'rewards/own.lua:2: no idea (sample'

printf 'return { name = "own", score = function(c, _, info)\n  if info.step > 20 then error("no idea") end\n  return #c %% 3 end }\n' >rewards/own.lua
start paused2 --set grpo.max_steps=60
wait_event '"kind": "pause"'
has paused2/events.jsonl 'own (8), as in: rewards/own.lua:2: no idea (sample'
sleep 0.5
is "$(wc -l <paused2/metrics.jsonl | tr -d ' ')" 21
[ -s paused2/checkpoint-21/MANIFEST ] || fail "no checkpoint at the pause"
has "$temp/err" 'step 21: paused: 8 of 24 calls of rewards failed in the last 3 steps'
has "$temp/err" 'medrl resume paused2'
own 1
finish 0
has "$temp/err" 'goes on: a changed script was taken over'
is "$(wc -l <paused2/metrics.jsonl | tr -d ' ')" 60
# ended in the pause by a signal, and continued from there with the mended file: the same run
printf 'return { name = "own", score = function(c, _, info)\n  if info.step > 20 then error("no idea") end\n  return #c %% 3 end }\n' >rewards/own.lua
start paused3 --set grpo.max_steps=60
wait_event '"kind": "pause"'
sleep 0.2
kill -TERM $pid
finish 143
has "$temp/err" 'continue with: medrl resume paused3'
own 1
run 0 resume paused3
same_bits paused2 paused3

# --- --on-error stop: one line, exit code 2, a checkpoint
printf 'return { name = "own", score = function(c, _, info)\n  if info.step > 20 then error("no idea") end\n  return #c %% 3 end }\n' >rewards/own.lua
run 2 run recipes/live.lua -o stopped --threads 1 --set grpo.max_steps=60 --on-error stop
says 'medrl: stopped: stopped after step 21: 8 of 24 calls of rewards failed'
says 'rewards/own.lua:2: no idea'
says 'continue with: medrl resume stopped'
own 1
run 0 resume stopped
hash_of paused2
want=$hash
hash_of stopped
is "$hash" "$want"
run 2 run recipes/live.lua -o never --on-error perhaps
says '--on-error perhaps: want pause or stop'
passed
