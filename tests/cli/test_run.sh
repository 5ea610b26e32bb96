#!/bin/sh
# test_run.sh - whole runs on a tiny model: what a run leaves behind, determinism, signals, kill -9 and resume, faulty rewards, wrong settings.
. "$(dirname "$0")/lib.sh"
tiny_model tiny_smollm2
cd "$temp" || exit 1

# smoke OUTPUT STEPS [MORE...]: the arguments of a small run
smoke() {
    out=$1
    steps=$2
    shift 2
    set -- run recipes/smoke.lua -o "$out" --threads 1 --set model.name="$temp/tiny" --set model.max_seq_length=256 \
        --set grpo.max_prompt_length=200 --set grpo.max_steps="$steps" "$@"
    printf '%s\n' "$@" >"$temp/args"
}
run_smoke() { # CODE OUTPUT STEPS [MORE...]
    code=$1
    shift
    smoke "$@"
    old_ifs=$IFS
    IFS='
'
    # shellcheck disable=SC2046
    set -- $(cat "$temp/args")
    IFS=$old_ifs
    run "$code" "$@"
}
same_metrics() { # all but the clock
    for f in "$1" "$2"; do
        sed 's/"time\/[^,}]*[,}]//g; s/"step_time"[^,}]*[,}]//g' "$f/metrics.jsonl" >"$f.metrics"
    done
    checks=$((checks + 1))
    cmp -s "$1.metrics" "$2.metrics" || fail "the metrics of $1 and $2 differ"
}
hash_of() {
    run 0 hash "$1"
    hash=$(cat "$temp/out")
    is "$(printf '%s' "$hash" | tr -d '0-9a-f' | wc -c | tr -d ' ') ${#hash}" "0 64"
}

# --- a run and what it leaves behind
run_smoke 0 one 6
says 'step 6/6'
says 'checkpoint-2'
prints 'medrl chat one'
for f in config.json metrics.jsonl samples.jsonl events.jsonl adapter/adapter_config.json adapter/adapter_model.safetensors \
    checkpoint-6/MANIFEST checkpoint-6/trainer_state.json; do
    [ -s "one/$f" ] || fail "one/$f is not there"
done
is "$(wc -l <one/metrics.jsonl | tr -d ' ')" 6
is "$(wc -l <one/samples.jsonl | tr -d ' ')" 48
# one forward: the ratio is 1, or null in a step without any signal, which trains on nothing
is "$(grep -c '"sampling/is_ratio": \(1\|null\)[,}]' one/metrics.jsonl)" 6
grep -q '"sampling/is_ratio": 1[,}]' one/metrics.jsonl || fail "no step has a ratio"
ls one/scripts/*.lua >/dev/null 2>&1 || fail "no scripts are stored"
hash_of one
first=$hash

# the result is a model to talk to
feed 'note: no cough. does the note say cough?' '/reset' '/quit'
run 0 chat one --max-new-tokens 4
run 0 generate one --max-new-tokens 4 --json hello
prints '"truncated"'
run 0 generate one/adapter --max-new-tokens 4 -n 2 hello
prints '--- 2 of 2'

# --- the same once more: nothing is overwritten, and every bit is the same
run_smoke 0 one 6 --json
prints '"run": "one-2"'
prints '"steps": 6'
hash_of one-2
is "$hash" "$first"
same_metrics one one-2
cmp -s one/adapter/adapter_model.safetensors one-2/adapter/adapter_model.safetensors || fail "the adapters differ"

# --- signals: a checkpoint, one line with the command that continues, 128 + the number
interrupt() { # SIGNAL CODE OUTPUT
    smoke "$3" 60 --set grpo.save_steps=3
    old_ifs=$IFS
    IFS='
'
    # shellcheck disable=SC2046
    set -- "$1" "$2" "$3" $(cat "$temp/args")
    IFS=$old_ifs
    signal=$1 expected=$2 folder=$3
    shift 3
    "$medrl" "$@" >"$temp/out" 2>"$temp/err" </dev/null &
    pid=$!
    waited=0
    while [ ! -e "$folder/checkpoint-3/MANIFEST" ]; do
        sleep 0.05
        waited=$((waited + 1))
        [ $waited -lt 2400 ] || fail "no checkpoint after two minutes"
    done
    kill -"$signal" $pid
    code=0
    wait $pid || code=$?
    is "$code" "$expected"
}
interrupt TERM 143 stopped
is "$(grep -c '^medrl: ' "$temp/err")" 1
says 'stopped: stopped by SIGTERM after step'
says 'continue with: medrl resume stopped'
interrupt KILL 137 killed
run_smoke 0 whole 60 --set grpo.save_steps=3
hash_of whole
whole=$hash
for folder in stopped killed; do
    run 0 resume "$folder"
    hash_of "$folder"
    is "$hash" "$whole"
    same_metrics "$folder" whole
done
run 0 resume killed --json   # a run that is finished has nothing left to do
prints '"steps": 60'

# --- a changed script takes over where the record ends, another base model is refused
cp -r one mine
mkdir -p rewards recipes
sed 's/output_dir = .*//' "$MEDRL_HOME/lua/recipes/smoke.lua" >recipes/mine.lua
cat >rewards/own.lua <<'LUA'
return { name = "own", score = function(completion) return #completion % 3 end }
LUA
run 0 run recipes/mine.lua -o own --set model.name="$temp/tiny" --set model.max_seq_length=256 --set grpo.max_prompt_length=200 \
    --set grpo.max_steps=2 --set 'rewards=["own"]'
echo '-- a comment more' >>rewards/own.lua
run 0 resume own
says 'step 2: rewards/own.lua: taken over (no cases)'
cp "$golden/tiny/tiny_qwen3/"* tiny/
run 65 resume own
says 'another version of'
cp "$golden/tiny/tiny_smollm2/"* tiny/

# --- rewards that fail cost their sample and never the run
fault() { # NAME LUA...
    name=$1
    shift
    printf '%s\n' "$@" >"rewards/$name.lua"
    run 0 run recipes/mine.lua -o "out_$name" --set model.name="$temp/tiny" --set model.max_seq_length=256 --set grpo.max_prompt_length=200 \
        --set grpo.max_steps=2 --set "rewards=[\"own\",\"$name\"]"
    grep -q "rewards/$name.lua:" "out_$name/events.jsonl" "$temp/err" || fail "nobody names rewards/$name.lua"
}
fault throws 'return { name = "throws", score = function(c)' '  if #c % 2 == 0 then error("no") end' '  return 1 end }'
fault isnan 'return { name = "isnan", score = function()' '  return 0/0 end }'
fault words 'return { name = "words", score = function()' '  return "much" end }'

# --- wrong settings: the key, what it is, what is wanted; nothing is made
wrong() { # CODE TEXT SETTING...
    code=$1 text=$2
    shift 2
    run "$code" run recipes/smoke.lua -o never --set model.name="$temp/tiny" --set "$1"
    says "$text"
    [ ! -e never ] || fail "a folder was made"
}
wrong 2 'unknown key "grpo.max_setps"; did you mean "grpo.max_steps"?' grpo.max_setps=3
wrong 2 'grpo.num_generations is 1, need at least 2' grpo.num_generations=1
wrong 2 'grpo.max_steps is "abc", want a whole number' grpo.max_steps=abc
wrong 2 'module "rewards.nope" was not found' 'rewards=["nope"]'
wrong 2 'model "nowhere" was not found' model.name=nowhere
wrong 2 '--set nonsense: want KEY=VALUE' nonsense
run 2 run recipes/smoke.lua -o never --device cuda
echo 'return { model = ' >recipes/broken.lua
run 2 run recipes/broken.lua
says 'recipes/broken.lua:'
run 2 data recipes/smoke.lua --set nonsense
run 0 data recipes/smoke.lua -n 1 --set model.name="$temp/tiny" --json
prints '"prompt_tokens"'
prints '"tokens_median"'

# --- the cases inside Lua files
run 0 test
prints ' passed, 0 failed'
cat >rewards/wrong.lua <<'LUA'
return { name = "wrong", score = function() return 1 end, cases = { { "x", {}, 2.0 } } }
LUA
run 2 test rewards/wrong.lua
prints 'rewards/wrong.lua'
prints ', 1 failed'
says '1 of'
passed
