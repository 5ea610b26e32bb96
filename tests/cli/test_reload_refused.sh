#!/bin/sh
# test_reload_refused.sh - a run that trains while its reward is replaced by everything that is no reward: each is refused in one line, the
# version in use stays, no sample is lost, and the run is to the bit the one whose files nobody touched. Then a good version takes over
# between two steps, and the run is resumed across it.
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/lib_live.sh"
tiny_model tiny_smollm2
cd "$temp" || exit 1
mkdir -p recipes rewards
body='local M = { name = "own", range = { 0, 6 } }
function M.score(c) return #c % 3 end
return M'
put() { printf '%s\n' "$1" >rewards/own.lua.new && mv rewards/own.lua.new rewards/own.lua; } # as editors do
good() { put "$body"; }
cat >recipes/live.lua <<LUA
local data = require "medrl.data"
return {
  model   = { name = "$temp/tiny", max_seq_length = 256 },
  lora    = { r = 4, lora_alpha = 8, target_modules = { "q_proj", "v_proj" } },
  data    = { system = "", train = data.get("nano_tasks", { n = 24, seed = 5 }) },
  rewards = { "own" },
  grpo    = { learning_rate = 1e-3, optim = "adamw_torch", prompts_per_step = 2, num_generations = 4, max_prompt_length = 200,
              max_completion_length = 24, max_steps = 300, save_steps = 250, save_total_limit = 9, logging_steps = 1000, sample_steps = 0,
              gradient_checkpointing = false, seed = 7 },
}
LUA
good
steps_for 12 1500 recipes/live.lua # the files below are replaced for that long
run 0 run recipes/live.lua -o clean -q --threads 1 --set grpo.max_steps=$steps

start whole --set grpo.max_steps=$steps
wait_step 3
refused=0
# refuse TEXT: one line of the record says it; then the good version is there again, which is the one in use
refuse() {
    wait_event "$1"
    refused=$((refused + 1))
    if [ -d rewards/own.lua ]; then rmdir rewards/own.lua; fi
    good
    sleep 0.15
}
put 'return { score = function() return 1 end,,}'
refuse 'rewards/own.lua:1: unexpected symbol near'
put 'local x = nil
return x.y'
refuse "rewards/own.lua:2: attempt to index local 'x'"
put 'return {}'
refuse 'rewards/own.lua: score is missing'
: >rewards/own.lua.new
mv rewards/own.lua.new rewards/own.lua
refuse 'rewards/own.lua: the file returned a boolean'
rm rewards/own.lua
mkdir rewards/own.lua
refuse 'rewards/own.lua: is a folder now'
rm rewards/own.lua
ln -s own.lua rewards/own.lua
refuse 'rewards/own.lua: is a link that leads back to itself'
rm rewards/own.lua
refuse 'rewards/own.lua: is gone'
mkfifo rewards/own.lua.new
mv rewards/own.lua.new rewards/own.lua
refuse 'rewards/own.lua: is no plain file now'
printf '\033LJ\002' >rewards/own.lua.new
mv rewards/own.lua.new rewards/own.lua
refuse 'rewards/own.lua: byte 0: this is bytecode'
put 'return { score = function() return 1 end, cases = { { "x", {}, 2 } } }'
refuse 'got 1, want 2'
# written in two halves: what comes whole within a tenth of a second (by the clock of who writes) is waited for in silence, and is what is in
# use; what stays half for longer has its line, one, and comes back in silence too
halves() { # SECONDS: between them; $ms: from before the first to behind the second
    n=$(wc -l <whole/events.jsonl)
    began=$(date +%s%N)
    {
        printf 'local M = { name = "own", range = { 0, 6 } }\n'
        [ "$1" = 0 ] || sleep "$1"
        printf 'function M.score(c) return #c %% 3 end\nreturn M\n'
    } >rewards/own.lua
    ms=$((($(date +%s%N) - began) / 1000000))
    sleep 0.4
    said=$(sed "1,${n}d" whole/events.jsonl | grep -c 'stays' || true)
}
in_time=0 late=0
for _ in $(seq 20); do
    halves 0.03
    if [ $ms -lt 90 ]; then
        in_time=$((in_time + 1))
        is "$said" 0
    else # a busy machine
        late=$((late + said))
        [ "$said" -le 1 ] || fail "$said lines about half a file"
    fi
    [ $in_time -lt 3 ] || break
done
[ $in_time -ge 1 ] || fail "20 writers were too slow: 30 ms took more than 90"
halves 0.4
is "$said" 1
late=$((late + 1))
alive
is "$(grep -c 'the version in use stays (changed: rewards/own.lua)' whole/events.jsonl)" $((refused + late)) # a line each
finish 0
is "$(wc -l <whole/metrics.jsonl | tr -d ' ')" $steps
is "$(wc -l <whole/samples.jsonl | tr -d ' ')" $((steps * 8))
is "$(grep -c '"rewards/faults": 0' whole/metrics.jsonl)" $steps
is "$(grep -c 'taken over' whole/events.jsonl || true)" 0
same_bits clean whole

# a hundred saves a second (fewer on a busy machine) for five seconds, every other one broken; the last one is good, other and taken over; and again from a checkpoint
good
start often --set grpo.max_steps=20000 --set grpo.save_steps=50
wait_step 52
cp -r often/checkpoint-50 kept
i=0
end=$(($(date +%s) + 5))
while [ "$(date +%s)" -lt $end ]; do
    i=$((i + 1))
    if [ $((i % 2)) = 0 ]; then printf 'return { score = function(' >rewards/own.lua; else printf '%s\n' "$body" >rewards/own.lua; fi
    sleep 0.008
done
put 'return { name = "own", range = { 0, 6 }, score = function(c) return #c % 5 + 0.5 end }'
wait_event 'rewards/own.lua: taken over'
at=$(wc -l <often/metrics.jsonl)
run 0 attach often -e "run:set{ max_steps = $((at + 200)) }"
wait_step $((at + 60))
kill -KILL $pid
wait $pid 2>/dev/null
[ "$i" -ge 100 ] || fail "only $i saves in 5 s"
is "$(grep -c '"rewards/faults": 0' often/metrics.jsonl)" "$(wc -l <often/metrics.jsonl | tr -d ' ')"
[ "$(grep -c 'the version in use stays' often/events.jsonl)" -le 7 ] || fail "more than a line a second"
for sha in $(grep '"kind": "reload"' often/events.jsonl | grep -oE '[0-9a-f]{64}' | sort -u); do
    [ -s "often/scripts/$sha.lua" ] || [ -s "often/scripts/$sha.jinja" ] || fail "scripts/$sha.* is not there"
done
# resumed from its last checkpoint, and from one before the first of these saves: the same run, both to its end
cp -r often again
rm -rf again/checkpoint-*
cp -r kept again/checkpoint-50
run 0 resume often -q
run 0 resume again -q
is "$(wc -l <often/metrics.jsonl | tr -d ' ')" $((at + 200))
same_bits often again

# a file that its user may not read: as another user, since root may read all
if [ "$(id -u)" = 0 ] && command -v setpriv >/dev/null && setpriv --reuid 65534 --regid 65534 --clear-groups test -x "$medrl"; then
    other="setpriv --reuid 65534 --regid 65534 --clear-groups"
else
    other=
fi
if [ -n "$other" ] || [ "$(id -u)" != 0 ]; then
    good
    mkdir cache
    [ -z "$other" ] || { chown -R 65534:65534 "$temp"; }
    folder=mode
    $other "$medrl" run recipes/live.lua -o mode --threads 1 --set grpo.max_steps=200 >"$temp/out" 2>"$temp/err" </dev/null &
    pid=$!
    wait_step 3
    echo 'return { score = function() return 5 end }' >rewards/own.lua.new
    chmod 0 rewards/own.lua.new
    mv rewards/own.lua.new rewards/own.lua
    wait_event 'rewards/own.lua: Permission denied'
    finish 0
    is "$(grep -c 'the version in use stays' mode/events.jsonl)" 1
    refused=$((refused + 1))
fi
echo "score: reload_refusals $refused 11"
passed
