#!/bin/sh
# test_new.sh - `medrl new`: each kind of file works as it is written; nothing is overwritten. `medrl test`: differences that can be
# read. `medrl test --fuzz`: the rewards that come with medrl, and one that can be fooled.
. "$(dirname "$0")/lib.sh"
cd "$temp" || exit 1

run 0 new reward brief
prints 'rewards/brief.lua: written; it works as it stands.'
prints '  medrl test --fuzz rewards/brief.lua '
run 0 new dataset trial
prints 'in a recipe: data.get "trial", and its file with --set data.files.trial=PATH'
run 0 new recipe mine
prints '  medrl run recipes/mine.lua '
run 0 new template tags
grep -q 'name = "brief"' rewards/brief.lua || fail "the name is not in the file"
! grep -rq 'new_' rewards datasets recipes templates || fail "a placeholder was left"
run 0 test rewards datasets recipes templates
prints ' 0 failed'
run 0 test --fuzz rewards/brief.lua
prints 'brief: '
prints '  0 earn more, 0 more are allowed, 0 faults, 0 slow'

# the recipe runs as written, with the new reward and the new data set beside it too
run 0 run recipes/mine.lua -o one --set grpo.max_steps=2
prints 'talk to it: medrl chat one'
printf '{"question": "pills", "answer": "yes"}\n{"question": "cough", "answer": "no"}\n' >trial.jsonl
sed 's/data.get("nano_tasks", { n = 400, seed = 2 })/data.get "trial"/; s/eval .*//; s/"xmlcount", /"brief", /' recipes/mine.lua >recipes/both.lua
run 0 run recipes/both.lua -o two --set data.files.trial=trial.jsonl --set grpo.max_steps=1 --set grpo.prompts_per_step=2
says 'brief '

echo mine >rewards/own.lua
run 2 new reward own
says 'medrl: rewards/own.lua: is there already; choose another name, or another folder with --dir'
is "$(cat rewards/own.lua)" mine
ln -s /nowhere rewards/link.lua
run 2 new reward link
says 'is there already'
run 0 new reward own --dir other/place
[ -s other/place/own.lua ] || fail "--dir was not used"
run 0 new reward correctness --dir other
says 'warning: other/correctness.lua: here it stands before the reward of that name'
run 2 new rewrd x
says 'unknown kind "rewrd"; did you mean "reward"?'
for name in ../x X 1x a-b '' a/b; do
    run 2 new reward "$name"
    says 'is no name, want lower-case letters'
done
run 2 new reward
says 'new: wants KIND NAME'

# --- medrl test: what a difference looks like
rm rewards/own.lua rewards/link.lua
printf '%s\n' 'return { score = function(c) return #c end, options = { k = 1 },' \
    '  cases = { { "a\nb\tc", { answer = "x" }, 5 }, { "a\nb", { answer = "x" }, 5, options = { k = 2 } } } }' >rewards/len.lua
run 2 test rewards/len.lua
is "$(cat out)" 'rewards/len.lua: case 2 ("a\nb"): got 3, want 5
    completion  a⏎b
    row         {"answer":"x"}
    options     {"k":2}
    - want      5
    + got       3
2 passed, 1 failed'
says 'medrl: test: 1 of 3 cases failed; they are printed above'
run 2 test rewards/len.lua --json
prints '{"files": [{"failed": 1, "failures": [{"case": 2, "completions": ["a\nb"], "got": "3", "of": "a\nb", "options": "{\"k\":2}", "row": "{\"answer\":\"x\"}", "want": "5", "why": "got 3, want 5"}], "file": "rewards/len.lua", "kind": "reward", "passed": 2}], "passed": 2, "failed": 1'
printf '%s\n' 'return { name = "deep", row = function(r) return { messages = { { role = "user", content = r.q } }, answer = "x" } end,' \
    '  cases = { { { q = "one\ntwo" }, { messages = { { content = "one\nthree" } } } } } }' >datasets/deep.lua
run 2 test datasets/deep.lua
is "$(sed -n '1,5p' out)" 'datasets/deep.lua: case 1: messages.1.content is one\ntwo, want one\nthree
    row         {"q":"one\ntwo"}
    field       messages.1.content
    - want      one⏎three
    + got       one⏎two'

# --- medrl test --fuzz
run 0 test --fuzz
is "$(grep -c ' 0 earn more, .* 0 faults, 0 slow' out)" "$(ls "$MEDRL_HOME"/lua/rewards/*.lua | wc -l | tr -d ' ')"
prints 'allowed, up to 2: as published'
exploits=$(sed -n 's/^xmlcount: \([0-9]*\) exploits.*/\1/p' out)
[ "$exploits" -ge 80 ] || fail "only $exploits exploits"
cat >rewards/fooled.lua <<'LUA'
-- Everything that a careless reward does: contains instead of equals, patterns from data, no look at how often.
local M = { name = "fooled", range = { 0, 1 } }
function M.score(completion, row)
  if #completion == 1000000 and completion:byte() == 97 then while true do end end
  return completion:find(row.answer) and 1 or 0
end
return M
LUA
run 2 test --fuzz rewards/fooled.lua
prints 'EXPLOIT  letters_glued '
prints 'EXPLOIT  enumerate_spaces '
prints 'fault    megabyte_a '
prints 'no answer within 1 s'
says 'finds, printed above; mend the reward, or say in its M.fuzz.allow why one is right'
cat >rewards/excused.lua <<'LUA'
local M = { name = "excused", range = { 0, 1 } }
function M.score(completion) return completion == "" and 1 or 0 end
M.fuzz = { allow = { empty = "an empty text is what this one is for" } }
return M
LUA
run 0 test --fuzz rewards/excused.lua
prints 'allowed, up to 1: an empty text is what this one is for'
sed -i 's/empty = "an/emptyy = "an/' rewards/excused.lua
run 2 test --fuzz rewards/excused.lua
says 'excused: fuzz.allow names "emptyy", and no exploit is called that'
sed -i 's/emptyy = "[^"]*"/empty = "so"/' rewards/excused.lua
run 2 test --fuzz rewards/excused.lua
says 'rewards/excused.lua: fuzz.allow: "empty" has no reason, want a sentence'
sed -i 's/empty = "so"/empty = { reason = "it may have a little of it", up_to = 0.5 }/' rewards/excused.lua
run 2 test --fuzz rewards/excused.lua
prints 'EXPLOIT  empty '
run 2 test --fuzz rewards/excused.lua --json
prints '"reward": "excused"'
prints '"exploit": "empty", "kind": "number", "score": 1, "limit": 0'
echo "score: exploits_tried $exploits 80"
echo "score: exploits_above_limit 0 0"
passed
