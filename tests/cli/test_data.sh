#!/bin/sh
# test_data.sh - medrl data: chosen rows, the prompt with its special tokens, lengths, answers, what was dropped and why,
# what train and eval share; as text and as JSON; with a model and without.
. "$(dirname "$0")/lib.sh"
cd "$temp" || exit 1
unset NO_COLOR

tiny_model tiny_qwen2
mkdir datasets
cat >datasets/tasks.lua <<'LUA'
local M = { name = "tasks", columns = { { "q", "string" } } }
function M.keep(r) return r.q ~= "no", "the question is no" end
function M.row(r)
  if r.q == "" then return nil, "the question is empty" end
  return { messages = { { role = "user", content = r.q } }, answer = r.a }
end
return M
LUA
rows() { # FROM TO [MORE...]: questions with numbers, answers that repeat
    awk -v from="$1" -v to="$2" 'BEGIN {
        for (i = from; i <= to; i++) printf "{\"q\":\"ask  %d\",\"a\":\"%s\"}\n", i, i % 3 ? "yes" : "no" }'
}
{
    rows 1 40
    printf '%s\n' '{"q":"no"}' '{"q":""}' '{"q":"a <|im_end|> b","a":"\u001b[31m"}'
} >train.jsonl
{
    rows 101 104
    printf '%s\n' '{"q":" ask\n7 ","a":"x"}'
    rows 105 106
    rows 12 12
} >eval.jsonl
cat >look.lua <<'LUA'
local data = require "medrl.data"
local tasks = data.get "tasks"
return {
  model = { name = "tiny" }, rewards = { "correctness" }, grpo = { max_prompt_length = 20 },
  data = { system = "be brief", files = { tasks = { train = "train.jsonl", eval = "eval.jsonl" } },
    train = tasks:filter(function(r) return r.messages[1].content ~= "ask  2", "it is the second" end),
    eval = data.get("tasks", { split = "eval" }) },
}
LUA

# text: two rows that were asked for, by their places
run 0 data look.lua --rows 2,40
prints "--- row 2 of 40, tasks, train.jsonl:3, "
prints "<|im_start|>system"
prints "be brief<|im_end|>"
prints "ask  3<|im_end|>"
prints '{"answer":"no","source":"tasks"}'
prints "--- row 40 of 40, tasks, train.jsonl:43, "
prints "a <|im_end|> b<|im_end|>"
prints "rows     40 rows of data.train, 40 different questions"
prints "tokens   of a prompt: least "
prints " to "
prints " ###"
prints "40 of 40 are longer than max_prompt_length (20)"
prints "answers  tasks 40 rows: yes (26), no (13),  [31m (1)"
prints "files    tasks: 41 of 43 rows from train.jsonl, 1 filtered, 1 skipped"
prints "1 filtered: the question is no (first: train.jsonl:41)"
prints "1 skipped: the question is empty (first: train.jsonl:42)"
prints "kept 40 of 41 rows"
prints "1 filtered: it is the second (first: train.jsonl:2)"
prints "overlap  2 of 8 rows of eval ask what a row of train asks"
prints "eval row 5 (eval.jsonl:5) = train row 6 (train.jsonl:7): ask 7"
prints "eval row 8 (eval.jsonl:8) = train row 11 (train.jsonl:12): "
says "tasks: 1 rows skipped"
is "$(grep -c -- '^--- row' out)" 2
is "$(grep -c "$(printf '\033')" out)" 0

run 0 data look.lua --split eval -n 0
prints "rows     8 rows of data.eval, 8 different questions"
prints "overlap  2 of 8 rows of eval"
is "$(grep -c -- '^--- row' out)" 0

# JSON lines: rows, then one summary
run 0 data look.lua --json -n 1
is "$(wc -l <out)" 2
prints '{"type": "row", "row": 1, "place": "train.jsonl:1", "source": "tasks", "messages": [{"role": "system", "content": "be brief"}, {"role": "user", "content": "ask  1"}], "prompt": "<|im_start|>system'
prints '"columns": {"answer": "yes", "source": "tasks"}}'
prints '{"type": "summary", "recipe": "look.lua", "split": "train", "rows": 40, "rows_looked_at": 40, "different_questions": 40, "failed": 0, "first_failure": "", "tokens": {"counted": 40, "least": '
prints '"max_prompt_length": 20, "over": 40, "histogram": [{"from": '
prints '"sources": [{"source": "tasks", "rows": 40, "answers": [{"answer": "yes", "rows": 26}, {"answer": "no", "rows": 13}, '
prints '"reasons": [{"first": "train.jsonl:41", "reason": "the question is no", "rows": 1, "what": "filtered"}, '
prints '"overlap": {"train_rows": 40, "eval_rows": 8, "eval_rows_in_train": 2, "first": [{"eval": {"row": 5, "place": "eval.jsonl:5"}, "train": {"row": 6, "place": "train.jsonl:7"}, "question": "ask 7"}'

# a model that is not there costs the counts only; so does an eval that does not open
run 0 data look.lua -n 1 --set model.name=nobody/nothing --set data.files.tasks.eval=gone.jsonl
prints "[user]"
prints 'tokens   not counted: model "nobody/nothing" is not on this machine'
prints "answers  tasks 40 rows: yes (26)"
prints 'overlap  of train and eval: not looked at: data.eval does not open: data set "tasks": gone.jsonl'
run 0 data look.lua -n 0 --json --set model.name=nobody/nothing --set data.eval=false
prints '"tokens": null, "tokens_missing": "model \"nobody/nothing\" is not on this machine'
prints '"overlap": null, "overlap_missing": "the recipe has no data.eval"'

# rows that cannot be made are counted, and the exit code says so
sed 's/tasks:filter(.*)/tasks:map(function(r) if r.answer == "no" then error("no luck") end return r end)/; s/, "it is the second" end),/,/' \
    look.lua >map.lua
run 65 data map.lua --rows 1-3 --json
is "$(wc -l <out)" 4
prints '{"type": "row", "row": 3, "error": "train.jsonl:3: map (map.lua:6): map.lua:6: no luck"}'
run 65 data map.lua
prints "--- row 3 of 41 cannot be made: train.jsonl:3: map (map.lua:6): map.lua:6: no luck"
prints "13 rows cannot be made; the first: train.jsonl:3: map (map.lua:6): map.lua:6: no luck"
prints "answers  tasks 28 rows: yes (27)"
says "medrl: map.lua: data.train: 13 rows cannot be made; the first: train.jsonl:3: "

for bad in 0 41 x 3- 3-2 1,,2 -- 1,; do
    run 2 data look.lua --rows "$bad"
done
run 2 data look.lua --rows 41
says 'medrl: data: --rows asks for row 41, data.train has 1 to 40'
run 2 data look.lua --split evil
says 'medrl: data: --split is "evil", want train or eval'

# docs/data.md: its files work, and each of its examples gives the rows behind "-->"
mkdir -p doc/datasets
awk '/^```/ { if (file) close(file); file = ""; inside = /^```lua/; first = 1; next }
    inside && first { first = 0
        if (/^-- shared/) file = "doc/shared.lua"
        else if (/^-- [a-z\/]*\.lua$/) file = "doc/" $2
        else file = "doc/example" ++n ".lua" }
    inside { print >file }' "$here/../../docs/data.md"
cd doc || exit 1
printf '%s\n' '{"country":"Peru","capital":"Lima"}' '{"country":"Switzerland","capital":"Bern"}' >capitals.jsonl
run 0 test datasets/capitals.lua
prints "3 passed, 0 failed"
run 0 data capitals.lua
prints "What is the capital of Peru?"
prints "1 filtered: a long name (first: capitals.jsonl:2)"
examples=0
for example in example*.lua; do
    want=$(sed -n 's/^--> //p' "$example")
    [ -n "$want" ] || continue
    { cat shared.lua "$example"
        echo 'return { model = { name = "none" }, rewards = { "correctness" }, data = { system = "", train = set } }'; } >recipe.lua
    run 0 data recipe.lua --json -n 100
    got=$(sed -n 's/.*"messages": \[{"role": "user", "content": "\([^"]*\)"}\].*/\1/p' "$temp/out" | tr '\n' ' ')
    is "$example: ${got% }" "$example: $want"
    examples=$((examples + 1))
done
is "$examples" 11
passed
