#!/bin/sh
# test_hang.sh - a run whose main thread stands still, in each of its stages: one warning that names the stage, and after three times the
# limit exit code 75, a crash file, and a last checkpoint that goes on to the bits of the run that was left alone. One that stands still
# for a while and goes on, loses nothing. Limits by the setting that users have.
#
#     test_hang.sh MEDRL_FAULTY
# Source: reliability.md P14.
. "$(dirname "$0")/../cli/lib.sh"
. "$(dirname "$0")/lib_faults.sh"
short_run 8
run 0 run short.lua -o whole -q
whole_hash=$(hash_of whole)
whole_metrics=$(without_clock whole)

same() { # WHAT
    [ "$(hash_of cut)" = "$whole_hash" ] || fail "$1: the run has another hash"
    [ "$(without_clock cut)" = "$whole_metrics" ] || fail "$1: the run has other metrics"
    checks=$((checks + 1))
}
sed -i 's/data.get("nano_tasks", { n = 24, seed = 5 })/&, eval = data.get("nano_tasks", { n = 4, seed = 6 })/; s/seed = 7/seed = 7, eval_steps = 2/' short.lua
run 0 run short.lua -o whole2 -q
[ "$(hash_of whole2)" = "$whole_hash" ] || fail "an evaluation changes the run"
whole_metrics=$(without_clock whole2)
stages=0
for stage in data rollout reward train update eval checkpoint commands; do
    rm -rf cut log
    n=5
    case $stage in checkpoint | eval) n=2 ;; esac
    code=0
    MEDRL_FAULT=stall:$n:$stage MEDRL_FAULT_LOG=$temp/log timeout 120 "$medrl" run short.lua -o cut -q --set watchdog_s=0.2 >out 2>err </dev/null || code=$?
    [ -s log ] || fail "$stage: never came"
    [ $code = 75 ] || fail "$stage: exit code $code, want 75"
    [ "$(grep -c "^warning: nothing moved for [0-9.]* s: .*stage $stage" err)" = 1 ] || fail "$stage: want one warning that names it"
    [ "$(grep -c '^medrl: ' err)" = 1 ] || fail "$stage: want one line that begins with \"medrl: \""
    says "continue from the last checkpoint with: medrl resume cut"
    set -- cut/crash-*.txt
    [ $# = 1 ] && [ -s "$1" ] || fail "$stage: no crash file"
    says "$1"
    for line in "^stage: $stage\$" "^step: " "^last operation: [a-z_]*\$" "^main thread: [A-Z]" "mr_trainer\|medrl"; do
        grep -q "$line" "$1" || fail "$stage: its crash file lacks $line"
    done
    ! grep -qiE 'HOME=|PATH=|token' "$1" || fail "$stage: its crash file holds the environment"
    check_checkpoints cut "$stage"
    "$medrl" resume cut -q >out 2>err || fail "$stage: and then resume: exit code $?"
    same "$stage"
    stages=$((stages + 1))
done

# --- stands still for longer than the limit (before the first step it is five times 0.2 s) and goes on: a warning, an event, the same bits
rm -rf cut log
MEDRL_FAULT=stall:1:rollout/1800 MEDRL_FAULT_LOG=$temp/log "$medrl" run short.lua -o cut -q --set watchdog_s=0.2 >out 2>err </dev/null ||
    fail "a stall of 1.8 s: exit code $?"
[ "$(grep -c '^warning: nothing moved' err)" = 1 ] || fail "a stall of 1.8 s: want one warning"
grep -q 'nothing moved for [0-9]* s in stage rollout; it went on' cut/events.jsonl || fail "a stall of 1.8 s is not in the events"
same "a stall of 1.8 s"
# --- nobody watches
rm -rf cut log
MEDRL_FAULT=stall:1:rollout/1800 MEDRL_FAULT_LOG=$temp/log "$medrl" run short.lua -o cut -q --set watchdog_s=0 >out 2>err </dev/null || fail "not watched: exit code $?"
! grep -q 'nothing moved' err || fail "not watched, but warned"
same "not watched"

# --- a reward that computes for longer than the limit, within its deadline: the line of Lua that runs is named
mkdir rewards
cat >rewards/slow.lua <<'LUA'
return { score = function(text)
  local n = 0
  for _ = 1, 1600000 do
    n = n + #string.gsub("abc", "b", function(c) return c end)
  end
  return n % 7
end }
LUA
sed 's/"xmlcount"/"slow"/' short.lua >slow.lua
code=0
"$medrl" run slow.lua -o slow -q --set watchdog_s=0.02 --set grpo.max_steps=1 >out 2>err </dev/null || code=$?
[ $code = 75 ] || [ $code = 0 ] || fail "a slow reward: exit code $code, want 0 or 75"
grep -q 'stage reward.*Lua at rewards/slow.lua:[34]' err || fail "a slow reward: its line is not named"
echo "score: hang_stages $stages 6"
passed
