#!/bin/sh
# test_repl.sh - `medrl repl` from pipes and -e: values, errors, exit codes; the model, rows and rewards of a recipe; steps, reset, reload.
. "$(dirname "$0")/lib.sh"
cd "$temp" || exit 1
XDG_STATE_HOME=$temp/state
export XDG_STATE_HOME
smoke=$MEDRL_HOME/lua/recipes/smoke.lua

# --- without anything: quick, arithmetic and modules work, the rest says what is missing
feed 'return 1 + 1'
run 0 repl
is "$(cat out)" 2
run 0 repl -e '1 + 1' -e 'text.strip("  a ")' -e '{ 1, { b = 2 } }'
is "$(tr '\n' '|' <out)" '2|"a"|{ 1, { b = 2 } }|'
run 0 repl --json -e 'x = 3' -e '{ x, "a" }'
is "$(cat out)" '[3,"a"]'
feed 'function f(x)' '  return x * 2' 'end' 'f(21)' '-- nothing' '=f(1)'
run 0 repl
is "$(tr '\n' '|' <out)" '42|2|'
feed 'print(1)' 'error("no", 0)' 'print(2)'
run 2 repl
is "$(cat out)" 1
says 'medrl: no'
feed 'function f() local x = nil; return x.y end' 'f() + 1'
run 2 repl
says "attempt to index local 'x'"
says "in function 'f'"
feed 'if true then'
run 2 repl
says "'end' expected"
feed 'print(1)' 'quit()' 'print(2)'
run 0 repl
is "$(cat out)" 1
printf 'x = "\000"\n' >in
run 65 repl
run 2 repl -e 'model:generate("x")'
says 'there is no model; start with one: medrl repl --model'
run 2 repl -e 'data[1]'
says 'there is no recipe'
run 2 repl -e 'step()'
run 2 repl -e 'score("x")'
says 'there are no rewards; start with some: medrl repl --reward'
run 2 repl -e 'io.open("x")'
run 0 repl --trust -e 'type(io.open)'
prints '"function"'
run 0 repl -e 'reload()' -e 'run.step' -e 'run.paused' -e '#run:metrics(3)'
run 0 repl -e 'help'
prints 'model:generate('
run 2 repl nowhere.lua -e 'data[1]'
run 2 repl --nosuch
says 'unknown option'
env -u HOME XDG_STATE_HOME=relative "$medrl" repl -e '1' >out 2>err </dev/null || fail "without a home"
[ ! -e relative ] || fail "a relative XDG_STATE_HOME is used"

# --- rewards without a recipe: score, a model beside them, a file that is saved again
mkdir -p rewards
echo 'return { score_batch = function(s) local v = {} for i = 1, #s do v[i] = #s end return v end }' >rewards/many.lua
run 0 repl --reward correctness -r rewards/many.lua:weight=0.5 --json -e 'score("<answer>yes</answer>", { answer = "yes" })'
prints '"correctness":2'
prints '"many":1'
prints '"reward":2.5'
run 0 repl -r xmlcount -e '#run:rewards(), run:rewards()[1].name' -e 'run:status().rewards[1]' -e '#run:scripts() > 0'
is "$(tr '\n' '|' <out)" '1|"xmlcount"|"xmlcount"|true|'
run 0 repl --model "$MEDRL_HOME/examples/nano" -r rewards/many.lua --json \
    -e 'r = model:generate("hello", { n = 3, max_new_tokens = 4, row = { answer = "x" } })' -e '{ #r, r[3].rewards.many, run.step }'
is "$(cat out)" '[3,3,0]'
echo 'return { score = function() return 2 end }' >rewards/two.lua
{
    echo 'score("x").rewards.two'
    sleep 2
    echo 'return { score = function() return 4 end }' >rewards/two.lua
    sleep 1
    echo 'reload()'
    echo 'score("x").rewards.two'
} | "$medrl" repl -r rewards/two.lua >out 2>err || fail "a session whose reward is saved again: $(cat err)"
is "$(head -n 1 out; tail -n 1 out)" "2
4"
run 2 repl -r correctness -e 'data[1]'
says 'there is no recipe'
run 2 repl -r correctness -e 'settings()'
run 2 repl "$smoke" -r correctness -e 1
says "repl: --reward is for sessions without a recipe"
run 2 repl -r nowhere -e 'score("x")'
says 'rewards.nowhere'
rm -r rewards

# --- a recipe
run 0 repl "$smoke" -e 'data:len()' -e 'data[3].index' -e 'type(data:sample().prompt)' -e 'type(data_eval[1].messages)'
is "$(tr '\n' '|' <out)" '24|3|"string"|"table"|'
run 0 repl "$smoke" --json -e 'score("<answer>yes</answer>", { answer = "yes", kind = "finding" })'
prints '"correctness":2'
prints '"reward":'
run 2 repl "$smoke" -e 'data[25]'
says 'data.train has the rows 1 to 24, there is no row 25'
run 2 repl "$smoke" -e 'data[0]'
run 0 repl "$smoke" --json -e 'model:generate(data[1], { n = 2, seed = 3, temperature = 0 })'
first=$(cat out)
prints '"rewards":{"correctness":'
run 0 repl "$smoke" --json -e 'model:generate(data[1], { n = 2, seed = 3, temperature = 0 })'
is "$(cat out)" "$first"
run 0 repl --model "$MEDRL_HOME/examples/nano" -e 'r = model:generate("hello", { n = 3, max_new_tokens = 4 })' -e '#r, type(r[1])'
is "$(tr '\n' '|' <out)" '3|"string"|'
run 2 repl "$smoke" -e 'model:generate("x", { n = 0 })'
says 'sample: field "n" is 0'
[ ! -e outputs-smoke ] || fail "a run began without a step"

# --- steps are those of `medrl run`; reset goes back to the start
run 0 repl "$smoke" -q -o a --json -e 'step(2)' -e 'first = run:metrics(2)' -e 'reset()' -e 'run.step' -e 'step(4)' \
    -e 'second = run:metrics(2)' -e 'save("mine")' -e '{ run.run, run.step, #run:last(), run:last(1).completions[1].reward ~= nil }'
is "$(cat out)" '["a-2",4,2,true]'
[ -s mine/adapter_model.safetensors ] || fail "save made nothing"
[ -s a-2/checkpoint-4/MANIFEST ] || fail "the session left no checkpoint"
run 0 run "$smoke" -o b
run 0 hash a-2
mine=$(cat out)
run 0 hash b
is "$mine" "$(cat out)"
run 0 generate mine --max-new-tokens 4 hello
run 0 repl "$smoke" -q -o c -e 'step(3)'
run 0 resume c
run 0 hash c
is "$mine" "$(cat out)"
run 0 repl c -e '#model:generate("hello", { max_new_tokens = 3 })'
is "$(cat out)" 1
run 2 repl "$smoke" -q -o d -e 'step(9)' -e 'step()'
says 'step: the run is at its end, step 4; set{ max_steps = 5 } goes on'
run 0 repl "$smoke" -q -o d -e 'step(9)' -e 'set{ max_steps = 5 }' -e 'step()' -e 'run.step'
prints 5
grep -q '"kind": "start", "text": "started by medrl repl"' d-2/events.jsonl || fail "the run does not say how it began"
grep -q '"by": "repl"' d-2/events.jsonl || fail "the run does not say who set"
run 0 repl "$smoke" -q -o e --json -e 'set{ learning_rate = 1e-2 }' -e 'step(2)' -e 'reset()' -e 'step(4)' -e 'run.run'
run 0 hash e-2
is "$mine" "$(cat out)"
run 0 repl "$smoke" --model "$MEDRL_HOME/examples/nano" -e 'run.model' -e 'data:len()' -e 'run.model'
prints examples/nano
run 2 repl "$smoke" -e 'save("b")'
says 'is there and is no adapter'

# --- reload: a changed reward is in use at once, a broken one is refused
mkdir -p rewards recipes
sed 's/output_dir = .*//; s/rewards = .*/rewards = { "own" },/; s/^ *"correctness" },//' "$smoke" >recipes/mine.lua
echo 'return { name = "own", score = function() return 1 end }' >rewards/own.lua
cat >in <<'LUA'
function save(text) local f = io.open("rewards/own.lua", "w") f:write(text) f:close() end
score("x").reward
save 'return { name = "own", score = function() return 2 end }'
reload()
score("x").reward
save 'return {'
reload()
score("x").reward
LUA
run 0 repl recipes/mine.lua --trust --set model.name="$MEDRL_HOME/examples/nano"
is "$(grep -cx '[12]' out)" 3
is "$(grep -x '[12]' out | tr -d '\n')" 122
prints 'rewards/own.lua'
passed
