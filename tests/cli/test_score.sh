#!/bin/sh
# test_score.sh - `medrl score`: a text, JSON lines, and a run's recorded completions through other rewards; weights and their two
# ways into a recipe, down to the advantages.
. "$(dirname "$0")/lib.sh"
cd "$temp" || exit 1
mkdir rewards

# --- a text on stdin
feed '<answer>Yes, it does.</answer>'
run 0 score -r correctness -r yes_no_maybe:weight=0.5 -r number_match --row '{"answer": "yes", "db_set": "pubmedqa"}'
prints 'correctness   0'
prints 'yes_no_maybe  1'
prints 'number_match  abstains'
prints 'reward        0.5'
printf '{"answer": "42"}' >row.json
feed '\boxed{42}'
run 0 score -r accuracy -r cosine_scaled:max_len=100 --row-file row.json --n-tokens 50 --json
is "$(cat out)" '{"rewards": {"accuracy": 1, "cosine_scaled": 0.75}, "faults": {}, "reward": 1.75}'
cat >rewards/odd.lua <<'LUA'
return { name = "odd", range = { -1, 1 }, score = function(c)
  if c:find "bad" then return c.nothing.there end
  return 1
end }
LUA
feed 'a bad text'
run 0 score -r rewards/odd.lua
prints 'odd       -1  fault: rewards/odd.lua:2: attempt to index field'
run 2 score
says 'medrl: score: want --reward NAME or --reward FILE.lua'
run 2 score -r nowhere
says 'medrl: --reward: rewards[1]: module "rewards.nowhere" was not found'
run 2 score -r correctness:loud=true
says 'medrl: --reward: rewards[1] (correctness): unknown option "loud"'
run 65 score -r correctness --row '[1]'
says 'medrl: --row: want a JSON object'
printf 'return { score = function() return 1 end, cases = { { "x", {}, 2 } } }' >rewards/wrong.lua
run 2 score -r rewards/wrong.lua
says 'medrl: rewards/wrong.lua: case 1 ("x"): got 1, want 2'

# --- JSON lines; a group is what score_batch sees
cat >rewards/size.lua <<'LUA'
return { name = "size", score_batch = function(s)
  local v = {}
  for i = 1, #s do v[i] = #s end
  return v
end }
LUA
feed '{"completion": "a", "group": 7}' '{"completion": "b", "group": 7}' '' '{"completion": "c"}'
run 0 score --jsonl -r rewards/size.lua -r rewards/odd.lua
is "$(tr '\n' ';' <out)" '{"rewards": {"size": 2, "odd": 1}, "faults": {}, "reward": 3};{"rewards": {"size": 2, "odd": 1}, "faults": {}, "reward": 3};{"rewards": {"size": 1, "odd": 1}, "faults": {}, "reward": 2};'
feed '{"text": "a"}'
run 65 score --jsonl -r correctness
says 'medrl: stdin:1: field "completion" is missing'

# --- a run: the same rewards give what was recorded
"$medrl" demo -o run --set grpo.max_steps=6 >out 2>err || fail "demo"
run 0 score run -r correctness -r xmlcount -r soft_format:dotall=true -r strict_format:dotall=true -r valid_answer
prints 'run: 288 completions of 6 steps'
is "$(grep -c ' 1.0000 *0 *0 *0$' out)" 5
prints 'No completion has another score.'
is "$(awk '$1 == "total" { print $2 == $3, $4 }' out)" '1 1.0000'

# another version of a reward, by the same name: what changed
cat >rewards/correctness.lua <<'LUA'
-- The other one, and 1 more for "maybe".
local text = require "medrl.text"
local M = { name = "correctness" }
function M.score(completion, row)
  local said = text.last_between(completion, "<answer>", "</answer>")
  if not said then return nil end
  if said == "yes" then error("no opinion on yes", 0) end
  return text.lower(said) == text.lower(row.answer) and (said == "maybe" and 3.0 or 2.0) or 0.0
end
return M
LUA
run 0 score run -r rewards/correctness.lua --top 4
prints 'reward       recorded       new  correlation  changed  abstains  faults'
prints 'fault: rewards/correctness.lua:7: no opinion on yes (step 1, prompt '
prints '4 of the '
is "$(grep -c '^step ' out)" 4
prints '⏎'
run 0 score run -r rewards/correctness.lua --json
# the same numbers by another way: recorded values, and what the rule says about each line
awk '
  {
    match($0, /"correctness": [-0-9.e]+/); old = substr($0, RSTART + 15, RLENGTH - 15) + 0
    match($0, /"answer": "[^"]*"/); gold = substr($0, RSTART + 11, RLENGTH - 12)
    match($0, /"completion": "([^"\\]|\\.)*"/); text = substr($0, RSTART + 15, RLENGTH - 16)
    n = split(text, after, "<answer>"); said = after[n]; abstains = n == 1 || !index(said, "</answer>")
    sub(/<\/answer>.*/, "", said); gsub(/\\n/, "", said)
    if (abstains) { lacks++; next }
    value = said == "yes" ? 0 : tolower(said) == tolower(gold) ? (said == "maybe" ? 3 : 2) : 0
    faults += said == "yes"; sum += value; m++
    x[m] = old; y[m] = value; mx += old
  }
  END {
    mx /= m; my = sum / m
    for (i = 1; i <= m; i++) { xx += (x[i] - mx) ^ 2; yy += (y[i] - my) ^ 2; xy += (x[i] - mx) * (y[i] - my) }
    printf "%.6f %.6f %d %d\n", my, xy / sqrt(xx * yy), lacks, faults
  }' run/samples.jsonl >want
sed 's/.*"new_mean": \([-0-9.e]*\), "correlation": \([-0-9.e]*\), "changed": [0-9]*, "abstained": \([0-9]*\), "faults": \([0-9]*\).*"reward": {.*/\1 \2 \3 \4/' out |
    awk '{ printf "%.6f %.6f %d %d\n", $1, $2, $3, $4 }' >got
is "$(cat got)" "$(cat want)"
rm rewards/correctness.lua

# --keep: the recorded total but for what is given; here nothing changes
run 0 score run -r correctness --keep
is "$(awk '$1 == "total" { print $2 == $3, $4 }' out)" '1 1.0000'

# groups of the run, as the run had them
run 0 score run -r rewards/size.lua
is "$(awk '$1 == "size" { print $3 }' out)" '6.0000'

# a run under way: half a line at the end is left out; a damaged one in the middle is named
cp -r run part
printf '{"step": 7, "prompt_in' >>part/samples.jsonl
run 0 score part -r xmlcount
prints 'part: 288 completions'
says 'part/samples.jsonl: the last line is not whole and is left out'
sed -i '5s/.*/{"step": 1/' part/samples.jsonl
run 65 score part -r xmlcount
says 'medrl: part/samples.jsonl:5: byte '
# a run of a version that recorded no columns
sed 's/, "columns": {[^}]*}//' run/samples.jsonl >part/samples.jsonl
run 0 score part -r correctness
prints 'This run recorded no columns'
is "$(awk '$1 == "correctness" { print $4, $5 }' out)" '1.0000 0'
run 2 score rewards -r xmlcount
says 'medrl: rewards: holds no samples.jsonl, want the folder of a run'

# --- a run with score_batch: it saw the groups, and they can be scored again to the same numbers
cat >rewards/differs.lua <<'LUA'
local M = { name = "differs", range = { 0, 1 } }
function M.score_batch(samples)
  local seen, values = {}, {}
  for i, s in ipairs(samples) do
    values[i] = seen[s.completion] and 0 or 1
    seen[s.completion] = true
  end
  return values
end
M.cases = { { { "a", "b", "a" }, {}, { 1, 1, 0 } } }
return M
LUA
"$medrl" demo -o batch --set grpo.max_steps=3 --set 'rewards=["correctness", "differs", "size"]' >out 2>err || fail "demo batch"
is "$(grep -c '"rewards/size/mean": 6,' batch/metrics.jsonl)" 3
run 0 score batch -r rewards/differs.lua -r rewards/size.lua -r correctness
is "$(awk '$1 == "differs" { print ($2 == $3), ($2 > 0.2), ($2 < 0.9), $4, $5 }' out)" '1 1 1 1.0000 0'
# who scores what does not show: other workers, the same numbers
cp out first
run 0 score batch -r rewards/differs.lua -r rewards/size.lua -r correctness --workers 5
cmp -s out first || fail "five workers score otherwise than two"

# --- weights, beside the names or as TRL's list, and each reward normalized by itself (spec: TRL 1.16, GDPO)
two='--set grpo.max_steps=2 --set grpo.multi_objective_aggregation=normalize_then_sum'
"$medrl" demo -o beside $two --set 'rewards=[{"name": "xmlcount", "weight": 0.5}, {"name": "correctness", "weight": 2}]' \
    >out 2>err || fail "demo beside"
"$medrl" demo -o list $two --set 'rewards=["xmlcount", "correctness"]' --set 'grpo.reward_weights=[0.5, 2]' >out 2>err || fail "demo list"
cmp -s beside/samples.jsonl list/samples.jsonl || fail "weights beside the names and as a list differ"
# per step: z = (r - mean of group) / (std of group + 1e-4), summed with the weights, then normalized over the step
awk '
  BEGIN { n = 0 }
  function finish(   g, b, f, m, s, all, i) {
    for (b = 0; b < n; b++) sum[b] = 0
    for (f = 0; f < 2; f++) for (g = 0; g < n; g += 6) {
      m = 0; s = 0
      for (b = g; b < g + 6; b++) m += r[f, b] / 6
      for (b = g; b < g + 6; b++) s += (r[f, b] - m) ^ 2
      s = sqrt(s / 5)
      for (b = g; b < g + 6; b++) sum[b] += (f ? 2 : 0.5) * (r[f, b] - m) / (s + 1e-4)
    }
    m = 0; s = 0
    for (b = 0; b < n; b++) m += sum[b] / n
    for (b = 0; b < n; b++) s += (sum[b] - m) ^ 2
    s = sqrt(s / (n - 1))
    for (b = 0; b < n; b++) {
      d = (sum[b] - m) / (s + 1e-4) - a[b]; if (d < 0) d = -d
      if (d > worst) worst = d
      if (a[b] != 0) moved++
    }
    n = 0
  }
  {
    match($0, /"step": [0-9]+/); step = substr($0, RSTART + 8, RLENGTH - 8)
    if (step != last && n) finish()
    last = step
    match($0, /"xmlcount": [-0-9.e]+/); r[0, n] = substr($0, RSTART + 12, RLENGTH - 12) + 0
    match($0, /"correctness": [-0-9.e]+/); r[1, n] = substr($0, RSTART + 15, RLENGTH - 15) + 0
    match($0, /"advantage": [-0-9.e]+/); a[n] = substr($0, RSTART + 13, RLENGTH - 13) + 0
    n++
  }
  END { finish(); print (worst < 1e-4 && moved > 50) ? "same" : "worst " worst ", moved " moved }' beside/samples.jsonl >got
is "$(cat got)" same
passed
