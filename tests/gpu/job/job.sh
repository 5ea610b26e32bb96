#!/bin/sh
# job.sh - the seed's job on a GPU, in shape and size: `medrl run recipes/medical_mix.lua`, NF4, LoRA r=64 on all linears, 6 completions of
# 1,024 tokens from prompts of up to 1,024, on a model folder of Qwen2.5-3B's shape. Nothing is fetched: make_model writes it.
#
#   tests/gpu/job/job.sh MEDRL MODULE MAKE_MODEL [STEPS [SHAPE [TOKENS]]]
#       MODULE: libmedrl_cuda.so; STEPS of the job (10; 0: the start alone); SHAPE: qwen2.5-3b or tiny; TOKENS of prompts and completions (1024)
#
# JOB_DIR: where the model (6.2 GB) goes and stays; default: a temporary folder. Random weights write no answers, so the recipe's rewards
# would all be 0 and nothing would be trained: a reward of its own, the share of a letter, takes their place. All else is the recipe's.
make_model=$(realpath "$3")
. "$(dirname "$0")/../lib_gpu.sh"
steps=${4:-10} shape=${5:-qwen2.5-3b} tokens=${6:-1024}
model=${JOB_DIR:-$temp}/$shape

# rows TOKENS: GSM8K's form, each question as many of our own questions as make a prompt of about that many tokens
rows() {
    awk -v most=$((($1 > 200 ? $1 - 84 : 100) * 5 / 3)) '{ # bytes: 0.6 tokens each here, and 64 tokens of the recipe around them
        q = $0
        sub(/^\{"question": "/, "", q)
        sub(/", "answer": .*/, "", q)
        text = text (text == "" ? "" : " ") q
        if (length(text) >= most) {
            sub(/.*", "answer": "/, "")
            print "{\"question\": \"" substr(text, 1, most) "\", \"answer\": \"" $0
            text = ""
        }
    }' "$MEDRL_HOME/examples/data/gsm8k.jsonl"
}
# metric NAME: its values by step
metric() { sed -n "s|.*\"$2\": *\([-0-9.e+]*\).*|\1|p" "$1/metrics.jsonl"; }
number() { sed -n "s|.*\"$1\": *\([-0-9.e+]*\).*|\1|p" json; }
run() { # FOLDER STEPS TOKENS ARGS...: the job; its outcome in json, what it says in log
    folder=$1 n=$2 most=$3
    shift 3
    "$medrl" run recipes/medical_mix.lua --device cuda:0 --json -v -o "$folder" --set model.name="$model" --set 'rewards=["letter"]' \
        --set data.files.gsm8k="$PWD/rows-$most.jsonl" --set grpo.max_steps="$n" --set grpo.max_prompt_length="$most" \
        --set grpo.max_completion_length="$most" "$@" >json 2>log
}

mkdir rewards
cat >rewards/letter.lua <<'END'
local M = { name = "letter", range = { 0.0, 1.0 } }

--- The share of the letter e: random text differs in it, and training can raise it.
function M.score(completion)
  local _, n = completion:gsub("e", "")
  return n / math.max(1, #completion)
end

M.cases = { { "here", {}, 0.5 }, { "", {}, 0.0 } }

return M
END
half=$((tokens / 2))
rows $half >rows-$half.jsonl
rows $tokens >rows-$tokens.jsonl
if [ ! -e "$model/done" ]; then
    t=$(date +%s.%N)
    "$make_model" "$shape" "$model" >log 2>&1 && touch "$model/done"
    result "the model's folder" $? "$(du -sm "$model" | cut -f1) MB in $(date +%s.%N | awk -v t="$t" '{ printf "%.1f", $1 - t }') s"
fi

# One step of 6 x (512 + 512), every prompt about that long: from the start of the process to its end.
run start 1 $half --set data.files.pubmedqa=none --set data.files.health_benchmarks=none
result "start to the end of the first step, 6 x ($half + $half)" $? \
    "$(sed -n 's/^ *\([0-9.]*\) s after the start: the first step is done/\1/p' log) s; rollout $(metric start time/rollout_s), training $(metric start time/train_s)"
grep ' s after the start\|^weights\|^adapter' log
[ "$steps" = 0 ] && exit $failed

run job "$steps" "$tokens" --set data.files.pubmedqa="$MEDRL_HOME/examples/data/pubmedqa.jsonl" \
    --set data.files.health_benchmarks="$MEDRL_HOME/examples/data/health_benchmarks.jsonl"
result "$steps steps of 6 x ($tokens + $tokens)" $? "step $(metric job step_time | awk '{ s += $1 } END { printf "%.2f", s / NR }') s in the mean"
echo "step_s: $(metric job step_time | tr '\n' ' ')"
echo "rollout_s: $(metric job time/rollout_s | tr '\n' ' ')"
echo "train_s: $(metric job time/train_s | tr '\n' ' ')"
echo "difference of log-probabilities, sampled and trained: $(metric job sampling/logp_difference_max | sort -g | tail -n 1)"
number device_bytes_peak | awk -v plan="$(number planned_bytes)" '{ printf "memory: planned %.3f GB, taken %.3f GB (%+.1f %%)\n", plan / 1e9, $1 / 1e9, 100 * ($1 / plan - 1) }'
exit $failed
