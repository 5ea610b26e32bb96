#!/bin/sh
# kills.sh - a run on a GPU that is killed with SIGKILL at seeded random times and resumed each time ends with the bits and the record of the
# one that was never killed; and a checkpoint of a CPU is not continued on a GPU but where that is allowed.
#
#   tests/gpu/kills.sh MEDRL MODULE [KILLS [STEPS [SIZE [DEVICE]]]]     MODULE: libmedrl_cuda.so; KILLS (20); STEPS of the run (60); SIZE: hidden (768)
#
# The model has random weights and is made here: 12 layers (a third of that below 512), NF4, LoRA of r = 16 on all projections. Kills come
# while the program starts, loads a checkpoint, samples, trains and writes. DEVICE cpu tries the script itself: 4 12 128 cpu.
# Source: reliability.md P1.
. "$(dirname "$0")/lib_gpu.sh"
kills=${3:-20} steps=${4:-60} size=${5:-768} device=${6:-cuda:0}
layers=$((size < 512 ? 4 : 12))
mkdir model
cp "$MEDRL_HOME"/examples/nano/token* "$MEDRL_HOME"/examples/nano/generation_config.json model/
sed "s/\"hidden_size\": 128/\"hidden_size\": $size/; s/\"intermediate_size\": 352/\"intermediate_size\": $((size * 8 / 3 / 64 * 64))/
    s/\"num_hidden_layers\": 4/\"num_hidden_layers\": $layers/; s/\"num_attention_heads\": 4/\"num_attention_heads\": $((size / 64))/
    s/\"num_key_value_heads\": 2/\"num_key_value_heads\": $((size / 128))/; s/\"head_dim\": 32/\"head_dim\": 64/" \
    "$MEDRL_HOME/examples/nano/config.json" >model/config.json
mkdir rewards
echo 'return { range = { 0, 1 }, score = function(text) local _, n = text:gsub("[aeiou ]", "") return n / (#text + 1) end }' >rewards/vowels.lua
cat >job.lua <<LUA
local data = require "medrl.data"
return {
  model   = { name = "made/model", max_seq_length = 192, load_in_4bit = true },
  lora    = { r = 16, lora_alpha = 32, target_modules = "all-linear" },
  data    = { system = "", train = data.get("nano_tasks", { n = 64, seed = 5 }) },
  rewards = { "vowels" },
  grpo    = { learning_rate = 1e-4, optim = "adamw_8bit", prompts_per_step = 4, num_generations = 6, max_prompt_length = 64,
              max_completion_length = 64, max_steps = $steps, save_steps = 2, save_total_limit = 2, logging_steps = 1000,
              sample_steps = 0, guards = false, beta = 0.04, seed = 7 },
}
LUA
sed 's/"made\/model", max_seq_length = 192, load_in_4bit = true/"model", max_seq_length = 192, from_config = true/; /lora  *=/d
    s/max_steps = [0-9]*/max_steps = 1/; s/beta = 0.04/beta = 0/' job.lua >make.lua
"$medrl" run make.lua --device "$device" -o made -q >log 2>&1
result "a model of random weights, $(wc -c <made/model/model.safetensors) bytes" $?
now_ms() { echo $(($(date +%s%N) / 1000000)); }
without_clock() { sed 's/"time\/[^,}]*[,}]//g; s/"step_time"[^,}]*[,}]//g' "$1/metrics.jsonl"; }

began=$(now_ms)
"$medrl" run job.lua --device "$device" -o whole -q >log 2>&1
result "a run of $steps steps, hidden size $size, $layers layers: $(grep '^result' log)" $?
whole_ms=$(($(now_ms) - began))
whole_hash=$("$medrl" hash whole 2>>log)
without_clock whole >whole.metrics

i=0 at_work=0 seed=1
while [ $i -lt "$kills" ]; do
    wait_ms=$(awk -v s="$seed" -v most="$whole_ms" 'BEGIN { srand(s); print int(100 + rand() * (most < 4000 ? most : 4000) * 0.75) }')
    seed=$((seed + 1))
    verb="resume cut"
    ls -d cut/checkpoint-* >/dev/null 2>&1 || { rm -rf cut; verb="run job.lua -o cut"; }
    # shellcheck disable=SC2086
    "$medrl" $verb --device "$device" -q >log 2>&1 &
    pid=$!
    sleep "$(awk -v t="$wait_ms" 'BEGIN { printf "%.3f", t / 1000 }')"
    kill -KILL $pid 2>/dev/null
    code=0
    wait $pid 2>/dev/null || code=$?
    i=$((i + 1))
    if [ $code = 137 ]; then
        at_work=$((at_work + 1))
    elif [ $code = 0 ]; then # it was done: from the beginning
        [ "$("$medrl" hash cut 2>>log)" = "$whole_hash" ] || { result "done before kill $i: another hash" 1; break; }
        rm -rf cut
    else
        result "kill $i: exit code $code" 1
        break
    fi
    for dir in cut/checkpoint-*; do
        [ -e "$dir/MANIFEST" ] || continue
        (cd "$dir" && sha256sum -c --quiet MANIFEST) >/dev/null 2>&1 || result "kill $i: $dir is damaged" 1
    done
done
verb="resume cut"
ls -d cut/checkpoint-* >/dev/null 2>&1 || { rm -rf cut; verb="run job.lua -o cut"; }
# shellcheck disable=SC2086
"$medrl" $verb --device "$device" -q >log 2>&1
result "resumed after $i kills, $at_work of them at work" $?
[ -n "$whole_hash" ] && [ "$("$medrl" hash cut 2>>log)" = "$whole_hash" ]
result "the same bits as the run that was never killed (hash $(echo "$whole_hash" | cut -c1-12))" $?
without_clock cut >cut.metrics
cmp whole.metrics cut.metrics >>log 2>&1
result "the same metrics ($(wc -l <cut.metrics) steps)" $?
[ $failed = 0 ] && echo "score: gpu_kills_bit_equal $at_work $kills"

# --- a checkpoint of the CPU
sed "s/\"made\/model\", max/\"examples\/nano\", max/; s/max_steps = $steps/max_steps = 3/" job.lua >small.lua
"$medrl" run small.lua --device cpu -o cpu -q >log 2>&1
result "3 steps on the CPU" $?
rm -rf cpu/checkpoint-3
"$medrl" resume cpu --device cuda:0 -q >log 2>&1
code=$?
[ $code = 77 ] && grep -q 'was made on cpu .*, this is .*SMs.*--allow-different-device' log
result "its checkpoint is not continued on this GPU (exit code $code)" $?
"$medrl" resume cpu --device cuda:0 -q --allow-different-device >log 2>&1
result "but where that is allowed" $?
grep -q 'the last bits are not' log
result "and then it says so" $?
exit $failed
