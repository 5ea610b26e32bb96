#!/bin/sh
# test_pull_use.sh - the token, two pulls at once, kills and a full disk, and names of the hub where a model or a data file is wanted.
# Source: reliability.md, P11.
. "$(dirname "$0")/lib_hub.sh"
start_hub 200
token=hf_CANARYcanary0123456789

# --- the token: to the endpoint and nowhere else, in no text
fresh auth
run 2 pull test/tiny
says "it wants a token (HF_TOKEN)"
HF_TOKEN=hf_wrong run 2 pull test/tiny
says "the token does not open it"
HF_TOKEN=$token run 0 pull test/tiny -v
whole models--test--tiny 6
cat "$temp/out" "$temp/err" >"$temp/texts"
is "$(requests "\"hub\".*Bearer $token")" 7 # two lists, five files
is "$(requests '"cdn".*Authorization')" 0
fresh auth
mkdir -p "$HF_HOME"
printf '%s\n' $token >"$HF_HOME/token"
run 0 pull test/one-gguf
fresh auth
printf '%s\n' $token >"$temp/token"
HF_TOKEN_PATH=$temp/token run 0 pull test/one-gguf
fresh other # the list is on another port: not the endpoint
HF_TOKEN=$token run 0 pull test/one-gguf
is "$(requests '"cdn".*Authorization')" 0
[ "$(requests "\"hub\".*Bearer $token")" -ge 2 ] || fail "no token for the endpoint"
fresh evilnext
HF_TOKEN=$token run 77 pull test/tiny
is "$(requests '"cdn"')" 0
HF_TOKEN="$(printf 'a\r\nX-Evil: 1')" run 2 pull test/tiny
says "HF_TOKEN: holds no token of the hub"
fresh plain
for form in "" --json; do # it may find other things that are not well
    HF_TOKEN=$token "$medrl" doctor $form >"$temp/out" 2>"$temp/err"
    prints "yes, from HF_TOKEN"
    cat "$temp/out" "$temp/err" >>"$temp/texts"
done
fresh always503
HF_TOKEN=$token run 69 pull test/tiny --tries 2 -v
cat "$temp/out" "$temp/err" >>"$temp/texts"
is "$(grep -c CANARY "$temp/texts")" 0
is "$(grep -c X-Signature "$temp/texts")" 0 # of signed links neither
is "$(grep -rl CANARY "$temp"/hf-*/hub 2>/dev/null | wc -l)" 0
# while it runs: no argument of any process, no environment of a worker
fresh slow-3000000
HF_TOKEN=$token "$medrl" pull test/tiny >"$temp/out" 2>"$temp/err" &
pid=$!
for _ in $(seq 100); do [ -n "$(find "$HF_HOME" -name '*.medrl' 2>/dev/null)" ] && break; sleep 0.05; done
is "$(cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\0' ' ' | grep -c 'CANAR[Y]')" 0

# --- two at once: the second waits for the first and fetches nothing twice
run 0 pull test/tiny
whole models--test--tiny 6
wait $pid || fail "the first of two pulls failed"
is "$(requests '"cdn".*bytes=0-4194303')" 1
is "$(requests 'resolve.*/model.safetensors')" 1

# --- killed at any call: what it left is right or gone, and the next pull is whole
kills=0
for fault in write:1 write:2 write:5 write:9 write:12 write:20 write:30 write:45 rename:1 rename:2 rename:3 rename:5 rename:8 rename:10 \
    rename:11 link:1 link:4 link:5 fsync:1 fsync:4 fsync:9 fsync:12 open:3 open:12 open:25 mkdir:1 mkdir:6 truncate:1 truncate:8 unlink:1; do
    fresh plain
    MEDRL_FAULT=$fault:kill MEDRL_FAULT_BELOW="$HF_HOME" "$faulty" pull test/tiny >"$temp/out" 2>"$temp/err" && continue
    kills=$((kills + 1))
    for blob in "$HF_HOME"/hub/models--test--tiny/blobs/*; do # a blob that has its name is whole
        case $blob in *.medrl | *'*') continue ;; esac
        is "$(find "$blob" -size -20000 | wc -l)" 1
        n=$(wc -c <"$blob")
        name=${blob##*/}
        if [ ${#name} = 64 ]; then
            is "$(sha256sum <"$blob" | cut -d' ' -f1)" "$name"
        else
            is "$({ printf 'blob %d\0' "$n"; cat "$blob"; } | sha1sum | cut -d' ' -f1)" "$name"
        fi
    done
    run 0 pull test/tiny
    whole models--test--tiny 6
done
[ $kills -ge 20 ] || fail "only $kills kills"
# what a killed one has fetched is not fetched again
fresh slow-4000000
"$medrl" pull test/tiny --connections 1 >"$temp/out" 2>"$temp/err" &
pid=$!
for _ in $(seq 200); do
    part=$(find "$HF_HOME" -name '*.medrl' -size +2000 2>/dev/null)
    [ -n "$part" ] && [ "$(tail -c 10 "$part" | od -An -v -tx1 | tr -d ' \n' | cut -c1-4)" = a5a5 ] && break
    sleep 0.02
done
kill -9 $pid
wait $pid 2>/dev/null && fail "it was killed"
scenario plain
: >"$hub/requests"
run 0 pull test/tiny --json
whole models--test--tiny 6
fetched=$(sed 's/.*"fetched_bytes": \([0-9]*\).*/\1/' "$temp/out")
[ "$fetched" -lt 7500000 ] || fail "$fetched bytes were fetched again"
is "$(requests 'bytes=0-')" 0
# Ctrl-C: one line, what is there is kept
fresh slow-1000000
"$medrl" pull test/tiny >"$temp/out" 2>"$temp/err" &
pid=$!
for _ in $(seq 100); do [ -n "$(find "$HF_HOME" -name '*.medrl' 2>/dev/null)" ] && break; sleep 0.05; done
kill -TERM $pid
code=0
wait $pid || code=$?
is $code 143
says "stopped; the same command goes on where it was"
[ "$(find "$HF_HOME" -name '*.medrl' | wc -l)" -ge 1 ] || fail "no part was kept"

# --- a full disk, at each call that may say so
for fault in write:3 write:14 truncate:2 truncate:5 fsync:3 rename:2 link:2 mkdir:2; do
    fresh plain
    code=0
    MEDRL_FAULT=$fault+:ENOSPC MEDRL_FAULT_BELOW="$HF_HOME" "$faulty" pull test/tiny >"$temp/out" 2>"$temp/err" || code=$?
    is "$fault $code" "$fault 74"
    is "$(grep -c '^medrl: ' "$temp/err")" 1
    [ ! -e "$HF_HOME/hub/models--test--tiny/refs/main" ] || fail "$fault: a reference"
    run 0 pull test/tiny
    whole models--test--tiny 6
done
fresh plain # the real thing: a limit of file sizes
code=0
(ulimit -f 2000; exec "$medrl" pull test/tiny >"$temp/out" 2>"$temp/err") || code=$?
is $code 74
says "no room for its 9449529 bytes"
if [ -w /dev/shm ] && unshare -rm true 2>/dev/null; then # and a full disk
    mkdir "$temp/small"
    code=0
    unshare -rm sh -c "mount -t tmpfs -o size=4m none '$temp/small' && HF_HOME='$temp/small' exec '$medrl' pull test/tiny" >"$temp/out" 2>"$temp/err" || code=$?
    is $code 74
    says "has room for 0.00 GB"
fi

# --- names in place of paths
fresh plain
run 2 tokenize test/tiny_llama3
says "run  medrl pull test/tiny_llama3  first, or add --pull"
is "$(requests .)" 0
HF_HUB_OFFLINE=1 run 69 tokenize test/tiny_llama3 --pull
feed '{"text": "abc"}'
run 0 tokenize test/tiny_llama3 --pull
says "test/tiny_llama3: "
feed '{"text": "abc"}'
run 0 tokenize test/tiny_llama3
: >"$hub/requests"
HF_HUB_OFFLINE=1 run 0 generate test/tiny_llama3@main abc --raw -n 1 --max-new-tokens 2 --threads 1
run 0 logprobs test/tiny_llama3 </dev/null
is "$(requests .)" 0
rm "$(snapshot models--test--tiny_llama3)/model.safetensors" # Python may have wanted the configuration only
run 2 generate test/tiny_llama3 abc --raw
says "which lacks config.json or weights"
cat >"$temp/recipe.lua" <<'LUA'
local data = require "medrl.data"
return {
  model = { name = "test/tiny_qwen2", max_seq_length = 128, load_in_4bit = false }, lora = { r = 2, target_modules = { "q_proj" } },
  data = { train = data.get "gsm8k", files = { gsm8k = "hf:test/data/data/train.jsonl" } }, rewards = { "xmlcount" },
  grpo = { max_steps = 1, num_generations = 2, prompts_per_step = 1, max_prompt_length = 64, max_completion_length = 4 },
}
LUA
cd "$temp" || exit 1
run 2 data recipe.lua
says "medrl pull test/data/data/train.jsonl --dataset  first, or add --pull"
run 0 data recipe.lua --pull
[ -e "$(snapshot datasets--test--data)/data/train.jsonl" ] || fail "no data set was downloaded"
[ -e "$(snapshot models--test--tiny_qwen2)/model.safetensors" ] || fail "no model was downloaded"
HF_HUB_OFFLINE=1 run 0 data recipe.lua
run 0 data recipe.lua --set data.files.gsm8k=test/one --pull
# a run that has the token: no worker has it, and no file of the run
HF_TOKEN=$token "$medrl" run recipe.lua --pull -o run --device cpu --threads 1 --set grpo.max_steps=100000 --set grpo.save_steps=5 --set grpo.guards=false \
    >"$temp/out" 2>"$temp/err" &
pid=$!
for _ in $(seq 200); do [ -e run/checkpoint-5/MANIFEST ] && break; sleep 0.05; done
children=$(cat /proc/$pid/task/*/children)
[ -n "$children" ] || fail "the run has no workers"
grep -q CANARY /proc/$pid/environ || fail "the run itself has no token"
for child in $children; do is "$(grep -c CANARY "/proc/$child/environ")" 0; done
kill -TERM $pid
code=0
wait $pid || code=$?
is $code 143
is "$(grep -rl CANARY run "$temp/out" "$temp/err" | wc -l)" 0
run 65 data recipe.lua --set data.files.gsm8k=hf:test/data/absent.jsonl --pull
says 'no file that medrl downloads matches "absent.jsonl"'
feed n
if command -v script >/dev/null; then # a terminal is asked
    fresh plain
    printf 'n\n' | script -qec "$medrl generate test/one-gguf x" /dev/null >"$temp/out" 2>&1
    prints "test/one-gguf is not on this machine. Download 9 kB into"
    prints "was not downloaded"
    fresh slow-4000000 # the time that is left is seen in a window of 40 columns
    script -qec "stty cols 40; $medrl pull test/tiny --connections 1" /dev/null </dev/null >"$temp/out" 2>&1
    grep -aqE '[0-9] MB/s  ETA 0:0[0-9]' "$temp/out" || fail "no time left in a narrow window"
fi
passed
