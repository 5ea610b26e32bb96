#!/bin/sh
# test_template_reload.sh - a chat template that is saved while a run trains: a reload like any other, before a step, told,
# stored, and repeated by a run that is killed and continued.
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/lib_live.sh"
tiny_model tiny_smollm2
cd "$temp" || exit 1
mkdir -p recipes rewards templates
steps=400

# --- the files of the run, version by version
save() { cat >"$1.new" && mv "$1.new" "$1"; } # FILE, as editors do
mine() { # VERSION -> templates/mine.lua
    save templates/mine.lua <<LUA
local words = require "words"
return { render = function(messages)
  return { "v$1 ", words.w, " ", messages[#messages].content }
end, cases = { { messages = { { role = "user", content = "x" } }, text = "v$1 " .. words.w .. " x" } } }
LUA
}
words() { echo "return { w = '$1' }" | save words.lua; }
own() { printf '%s\n' 'return { name = "own", range = { 0, 9 }, score = function(c)' "return #c % $1 end }" | save rewards/own.lua; }
recipe() { # CHAT_TEMPLATE
    save recipes/live.lua <<LUA
local data = require "medrl.data"
return {
  model   = { name = "$temp/tiny", max_seq_length = 256, chat_template = "$1" },
  lora    = { r = 4, lora_alpha = 8, target_modules = { "q_proj", "v_proj" } },
  data    = { system = "", train = data.get("nano_tasks", { n = 24, seed = 5 }) },
  rewards = { "own" },
  grpo    = { learning_rate = 1e-3, optim = "adamw_torch", prompts_per_step = 2, num_generations = 4,
              max_prompt_length = 200, max_completion_length = 24, max_steps = $steps, save_steps = 40, logging_steps = 100,
              sample_steps = 0, gradient_checkpointing = false, seed = 7 },
}
LUA
}
prompts() { # FOLDER FROM TO TEXT: the prompts of these steps begin so, all of them
    checks=$((checks + 1))
    n=$(grep -E "\"prompt\": \"$4" "$1/samples.jsonl" | grep -oE '"step": [0-9]+' | awk -v a="$2" -v b="$3" '$2 >= a && $2 <= b' | wc -l)
    [ "$n" -eq $((($3 - $2 + 1) * 8)) ] || fail "$1: steps $2 to $3 have $n prompts that begin with \"$4\""
}

# --- a run with a Lua file that is edited, and so is what it requires; it is never stopped
mine 1
words a
own 3
recipe templates/mine
start whole
wait_step 20
mine 2
wait_event '"templates/mine.lua: taken over"'
wait_step 60
words b
wait_event '"templates/mine.lua: taken over (changed: words.lua)"'
wait_step 100
echo 'return { render = function(messages) return { messages.x.y } end }' | save templates/mine.lua
wait_event 'templates/mine.lua:1: attempt to index field'
wait_step 130
mine 3
own 5
wait_event 'rewards/own.lua: taken over (no cases; last batch: own '
wait_step 150
finish 0
a=$(step_of "$(line_of '"templates/mine.lua: taken over"')")
b=$(step_of "$(line_of '(changed: words.lua)"')")
grep -E '"kind": "reload"' whole/events.jsonl | grep -F 'the template in use stays' >refused
is "$(wc -l <refused | tr -d ' ')" 1
lacks refused '"detail"'
sha=$(sha256sum templates/mine.lua | cut -d' ' -f1)
has whole/events.jsonl "\"template\": {\"name\": \"templates/mine.lua\", \"sha256\": \"$sha\""
d=$(step_of "$(line_of "\"sha256\": \"$sha\"")")
prompts whole 1 "$a" 'v1 a '
prompts whole $((a + 1)) "$b" 'v2 a '
prompts whole $((b + 1)) "$d" 'v2 b '
prompts whole $((d + 1)) $steps 'v3 b '
for sha in $(grep '"kind": "reload"' whole/events.jsonl | grep -oE '[0-9a-f]{64}' | sort -u); do
    [ -s "whole/scripts/$sha.lua" ] || fail "scripts/$sha.lua is not there"
done
has whole/checkpoint-400/trainer_state.json "$(sha256sum words.lua | cut -d' ' -f1)"

# --- that run, ended after a checkpoint: repeated from the first, the middle, the last one
all=$(wc -l <whole/events.jsonl)
for c in 40 160 320; do
    crash cut $c $((steps - 3)) "$all"
    run 0 resume cut
    same_run whole cut
done
# the files on disk play no part in it: even none at all, until the record ends
crash cut 40 $steps "$all"
mkdir away
mv templates rewards words.lua away/
run 0 resume cut
same_bits whole cut
mv away/* .
# killed between the event and the step before the next checkpoint, with another file there by then: it is taken over where
# the record ends, and not before
mine 4
n=$(line_of '(changed: words.lua)"')
crash cut 40 "$b" "$n"
run 0 resume cut
prompts cut $((a + 1)) "$b" 'v2 a '
prompts cut $((b + 1)) $steps 'v4 b '
without_clock whole | head -n "$b" >a.metrics
without_clock cut | head -n "$b" >b.metrics
cmp a.metrics b.metrics >&2 || fail "the metrics before the kill differ"

# --- a real kill -9 between a reload and the next checkpoint, in Jinja; saved again while nothing runs
jinja() { printf 'j%s {{ messages[-1].content }}' "$1" | save own.jinja; }
jinja 1
recipe own.jinja
start killed
wait_step 85
jinja 2
wait_event '"own.jinja: taken over"'
wait_step $(($(wc -l <killed/metrics.jsonl) + 2))
kill -KILL $pid
wait $pid 2>/dev/null
n=$(wc -l <killed/metrics.jsonl)
jinja 3
run 0 resume killed
is "$(grep -c '"own.jinja: taken over"' killed/events.jsonl)" 2
[ -s "killed/scripts/$(sha256sum own.jinja | cut -d' ' -f1).jinja" ] || fail "the template is not among the scripts"
a=$(grep -F '"own.jinja: taken over"' killed/events.jsonl | head -1 | grep -oE '"step": [0-9]+' | cut -d' ' -f2)
b=$(grep -F '"own.jinja: taken over"' killed/events.jsonl | tail -1 | grep -oE '"step": [0-9]+' | cut -d' ' -f2)
[ "$b" -ge "$n" ] || fail "the file that was saved after step $n was taken over after step $b"
prompts killed 1 "$a" 'j1 '
prompts killed $((a + 1)) "$b" 'j2 '
prompts killed $((b + 1)) $steps 'j3 '
cp -r killed again
rm -rf again/adapter
for c in again/checkpoint-*; do [ "${c##*-}" -le 40 ] || rm -rf "$c"; done
run 0 resume again
same_run killed again

# --- a module that a template requires late, after a checkpoint, belongs to the version that required it
mkdir -p datasets
cat >datasets/rows.lua <<'LUA'
return { name = "rows", row = function(r)
  return { answer = "A", messages = { { role = "user", content = r.q }, { role = "assistant", content = r.q .. "!" } } }
end }
LUA
for i in 1 2 3 4 5 6 7 8 9; do printf '{"q": "question 1%s"}\n{"q": "question 2%s"}\n' $i $i; done >rows.jsonl
recipe templates/mine
sed 's/data.get("nano_tasks.*}) },/data.get "rows", files = { rows = "rows.jsonl" } },/' recipes/live.lua | save recipes/live.lua
echo 'return { render = function(messages) return { "early ", messages[1].content } end }' | save templates/mine.lua
echo 'return { word = "late " }' >late.lua
rm -rf whole cut
start whole
wait_step 43
q=$(sed -n 1p whole/samples.jsonl | grep -oE 'early question [0-9]+' | cut -d' ' -f3) # comes again every nine steps
save templates/mine.lua <<LUA
return { render = function(messages)
  local q = messages[1].content
  return { q == "question $q" and require("late").word or "early ", q }
end }
LUA
wait_event '"module": "template:late"'
finish 0
has whole/samples.jsonl "\"prompt\": \"late question $q\""
echo 'return { word = "much too late " }' >late.lua
crash cut 40 $steps "$(wc -l <whole/events.jsonl)"
run 0 resume cut
same_bits whole cut
lacks cut/samples.jsonl 'much too'
is "$(grep -c '"module": "template:late"' cut/events.jsonl)" 1
run 0 resume cut # nothing is left to do; its checkpoint names the module
is "$(grep -c '"module": "template:late"' cut/events.jsonl)" 1

# --- in a session: before a run began, and between its steps
echo 'return { render = function(messages) return { "one ", messages[1].content } end }' | save templates/mine.lua
cat >in <<'LUA'
function put(n) local f = io.open("templates/mine.lua", "w")
  f:write('return { render = function(m) return { "' .. n .. ' ", m[1].content } end }') f:close() end
function began() return data[1].prompt:match("^%w+") end
_ = model:generate("x", { max_new_tokens = 1 })
began()
put "two"
reload()
began()
put "three"
step(1)
began()
put "four"
reload()
began()
LUA
XDG_STATE_HOME=$temp/state run 0 repl recipes/live.lua --trust --output session
is "$(grep -xE '"?(one|two|three|four)"?' out | tr -d '"\n')" onetwothreefour
is "$(grep -c 'templates/mine.lua: taken over' out)" 2

# --- supervised training has no rewards, and its template is looked after all the same
cat >recipes/live.lua <<LUA
local data = require "medrl.data"
return {
  method = "sft",
  model  = { name = "$temp/tiny", chat_template = "own.jinja" },
  lora   = { r = 4, target_modules = { "q_proj", "v_proj" } },
  data   = { system = "", train = data.get "rows", files = { rows = "$temp/rows.jsonl" } },
  sft    = { max_steps = $steps, prompts_per_step = 2, max_prompt_length = 64, max_completion_length = 24, save_steps = 40,
             logging_steps = 100 },
}
LUA
jinja 1
rm -rf whole cut
start whole
wait_step 60
jinja 'much longer than it was '
wait_event '"own.jinja: taken over"'
finish 0
all=$(wc -l <whole/events.jsonl)
: >whole/samples.jsonl
crash cut 40 $((steps - 3)) "$all"
run 0 resume cut
same_run whole cut
jinja 1
crash cut 40 50 $(($(line_of '"own.jinja: taken over"') - 1)) # the record of the reload is lost: the old template all the way
run 0 resume cut
without_clock whole >a.metrics
without_clock cut >b.metrics
! cmp -s a.metrics b.metrics || fail "the template makes no difference in supervised training"

# --- a model's own template does not change in a run: one line says that it has become another one
printf 'own {{ messages[-1].content }}' >tiny/chat_template.jinja
recipe ''
own 3
rm -rf whole cut
start whole
finish 0
crash cut 320 $((steps - 3)) "$(wc -l <whole/events.jsonl)"
printf 'other {{ messages[-1].content }}' >tiny/chat_template.jinja
run 0 resume cut
says 'tiny: chat template: is another one than when the run was started; the run goes on with the one it began with'
same_bits whole cut
prompts cut 1 $steps 'own '
passed
