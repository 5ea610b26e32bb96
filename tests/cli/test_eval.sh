#!/bin/sh
# test_eval.sh - `medrl eval` of a run, of a model and of files as their authors publish them; evaluation in the course
# of a run, which changes nothing else and is there again after a resume.
. "$(dirname "$0")/lib.sh"
cd "$temp" || exit 1

number() { sed -n "s/.*\"$1\": \([-0-9.e+]*\).*/\1/p" "$temp/out"; }

# a run that learns nothing good: at this rate the adapter breaks what the base model can
run 0 run recipes/smoke.lua --output broken --device cpu --threads 2 --set grpo.learning_rate=0.3 --set lora.r=8 \
    --set grpo.eval_steps=2 --set grpo.max_eval_samples=4 --set grpo.max_grad_norm=100
is "$(grep -c '"eval/accuracy"' broken/metrics.jsonl)" 2 # after steps 2 and 4
is "$(grep -c '"eval/rows": 4' broken/metrics.jsonl)" 2
grep -q '"eval/[a-z0-9_]*/accuracy"' broken/metrics.jsonl || fail "no accuracy by data set"
says "step 2: eval: "
grep -q '"best_global_step": *2\b' broken/checkpoint-4/trainer_state.json || fail "the best step is not in the state"
grep -q '"best_metric": *[01]' broken/checkpoint-4/trainer_state.json || fail "the best accuracy is not in the state"
grep -q '"best_model_checkpoint": *"broken/checkpoint-2"' broken/checkpoint-4/trainer_state.json || fail "nor its folder"
# the same run without evaluations ends with the same bits
run 0 run recipes/smoke.lua --output plain --device cpu --threads 2 --set grpo.learning_rate=0.3 --set lora.r=8 \
    --set grpo.max_grad_norm=100
run 0 hash plain
plain=$(cat "$temp/out")
run 0 hash broken
is "$(cat "$temp/out")" "$plain"
# and one that goes on from its first checkpoint evaluates as it did
cp -r broken again
rm -rf again/checkpoint-4 again/adapter
run 0 resume again --device cpu --threads 2
without_clock broken >a
without_clock again >b
cmp a b || fail "the metrics of the resumed run differ"

grep -q '"best_global_step": *2\b' again/checkpoint-4/trainer_state.json || fail "the resumed run forgot its best step"
# the best one is there, however seldom the run saves
run 0 run recipes/smoke.lua --output seldom --device cpu --threads 2 --set grpo.save_steps=0 --set grpo.eval_steps=1
[ -e seldom/checkpoint-1/MANIFEST ] || fail "the best checkpoint is not there"

# and stays when others are pruned: it, and the newest two
run 0 run recipes/smoke.lua --output few --device cpu --threads 2 --set grpo.learning_rate=0.3 --set lora.r=8 --set grpo.max_grad_norm=100 \
    --set grpo.eval_steps=2 --set grpo.max_eval_samples=4 --set grpo.save_steps=1 --set grpo.save_total_limit=1 --set grpo.max_steps=7
best=$(sed -n 's/.*"best_global_step": *\([0-9]*\).*/\1/p' few/checkpoint-7/trainer_state.json)
[ -n "$best" ] && [ "$best" -lt 6 ] || fail "the best step is \"$best\", want one that pruning would take"
is "$(echo few/checkpoint-*)" "few/checkpoint-$best few/checkpoint-6 few/checkpoint-7"

# stopped in the midst of an evaluation, which is most of this run's time: the step is kept, the rest comes with the resume
cat >long <<END
exec "$medrl" run recipes/demo.lua --output \$1 --device cpu --threads 1 -q --set grpo.max_steps=6 --set grpo.save_steps=0 \\
    --set grpo.prompts_per_step=2 --set grpo.eval_steps=1 --set grpo.max_eval_samples=0 >out 2>err
END
sh long whole || fail "the run for stopping"
run 0 hash whole
whole=$(cat "$temp/out")
without_clock whole >a
open=0
for try in 1 2 3 4 5 6 7 8 9 10 11 12; do
    rm -rf stopped
    sh long stopped & pid=$!
    waited=0
    until [ -s stopped/samples.jsonl ] || [ $waited -gt 400 ]; do
        sleep 0.02
        waited=$((waited + 1))
    done
    sleep 0.0$((try % 5))
    kill -TERM $pid 2>/dev/null
    wait $pid || :
    grep -q '"eval_open"' stopped/checkpoint-*/trainer_state.json 2>/dev/null || continue
    open=$((open + 1))
    run 0 resume stopped --device cpu --threads 1
    run 0 hash stopped
    is "$(cat "$temp/out")" "$whole"
    without_clock stopped >b
    cmp a b || fail "the metrics of a run that was stopped while it evaluated differ"
    cmp whole/samples.jsonl stopped/samples.jsonl || fail "its samples differ"
    [ $open = 2 ] && break
done
[ $open -gt 0 ] || fail "no evaluation was met"

run 0 eval broken --device cpu --threads 2 --flips 2 --rows rows.jsonl
prints "95 % interval"
prints "data.eval of "
prints "6 of 6 rows"
prints "became wrong"
prints "gold "
is "$(wc -l <rows.jsonl)" 6
grep -q '"base": {"completion": ".*"right": true, "invalid": false' rows.jsonl || fail "the base model has no right answer"
[ -s broken/eval.json ] || fail "eval.json is not kept"
cp broken/eval.json kept.json
run 0 eval broken --device cpu --threads 2 --json --no-save --batch 1
sed 's/"seconds": [0-9.e-]*//' kept.json >a
sed 's/"seconds": [0-9.e-]*//' "$temp/out" >b
cmp a b || fail "the answers depend on the batch"
is "$(number became_wrong | wc -l)" 1
run 0 eval broken --device cpu --threads 2 --limit 3 --no-base --json --no-save
prints '"rows": 3'
prints '"flips": []'

# a model, and files in their authors' form; the question is one that the nano model knows
cat >sums.jsonl <<'END'
{"question": "3 pills in the morning and 4 in the evening. how many pills?", "answer": "3+4=7\n#### 7"}
{"question": "2 pills in the morning and 2 in the evening. how many pills?", "answer": "#### 4"}
{"question": "2 pills in the morning and 1 in the evening. how many pills?", "answer": "#### 1,000"}
END
run 0 eval examples/nano --data gsm8k=sums.jsonl --set 'data.system=""' --device cpu --threads 2 --max-new-tokens 40 --json
is "$(sed -n 's/.*"all": {"rows": 3, "judged": 3, "model": {"right": \([0-9]*\),.*/\1/p' "$temp/out")" 2
prints '"low": 0.2076'
run 0 eval examples/nano --data gsm8k=sums.jsonl --set 'data.system=""' --device cpu --threads 2 --max-new-tokens 2
prints "100.0 %       3 rows" # cut off before the answer: all invalid
run 0 eval examples/nano --data recipes/smoke.lua --device cpu --threads 2
prints "all                  model"

run 2 eval examples/nano
says "examples/nano is no run, so there is no data.eval"
run 2 eval examples/nano --data squad=x.jsonl --device cpu
says "data.files.squad: the recipe reads no data set of that name"
run 2 eval examples/nano --data gsm8k
says "want NAME=FILE"
run 2 run recipes/smoke.lua --output none --device cpu --set grpo.eval_steps=2 --set data.eval=null
says "data.eval has no rows"
run 2 run recipes/smoke.lua --output none --set grpo.eval_strategy=epoch
says "set eval_steps"
passed
