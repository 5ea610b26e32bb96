#!/bin/sh
# test_datasets.sh - the three data sets of the published recipe by their names on the hub, as Parquet: pulled, found again, from a
# folder of the same files; the 52 specialties in both layouts; what comes over the network for it and what does not.
. "$(dirname "$0")/lib_hub.sh"
"$medrl" version --json | grep -q '"carquet"' || { echo "$(basename "$0"): built without Parquet: skipped"; exit 0; }
start_hub 100
cat >"$temp/mix.lua" <<'LUA'
local data = require "medrl.data"
return {
  model = { name = "none" }, rewards = { "correctness" },
  data = { system = "", train = data.concatenate { data.get "gsm8k", data.get "pubmedqa", data.get "health_benchmarks" } },
}
LUA
cd "$temp" || exit 1

fresh plain
run 2 data mix.lua -n 0
says 'mix.lua: no file for data set "gsm8k": put the file there with data.files.gsm8k = "PATH" ("none" leaves the set out), or fetch it'
says "run  medrl pull openai/gsm8k --dataset --include 'main/*'  first, or add --pull"
is "$(requests .)" 0
run 0 data mix.lua --rows 1,3,6,57 --pull
prints "row 1 of 57, gsm8k, hf:openai/gsm8k/main/train-00000-of-00001.parquet:1"
prints "row 3 of 57, pubmedqa, hf:qiaojin/PubMedQA/pqa_artificial/train-00000-of-00001.parquet:1"
prints "row 6 of 57, med_mc, hf:yesilhealth/Health_Benchmarks/data/Lab_Medicine-00000-of-00001.parquet:1"
prints "row 57 of 57, med_mc, hf:yesilhealth/Health_Benchmarks/data/Wellbeing-00000-of-00001.parquet:1"
prints "health_benchmarks: 52 of 52 rows from yesilhealth/Health_Benchmarks"
is "$(requests 'resolve.*socratic')" 0
is "$(requests 'resolve.*pqa_labeled')" 0
[ ! -e "$(snapshot datasets--qiaojin--PubMedQA)/pqa_labeled" ] || fail "another configuration was downloaded"
: >"$hub/requests"
HF_HUB_OFFLINE=1 run 0 data mix.lua -n 0
is "$(requests .)" 0
# one more configuration of a repository that is there
cat >"$temp/labeled.lua" <<'LUA'
local data = require "medrl.data"
return { model = { name = "none" }, rewards = { "correctness" },
         data = { system = "", train = data.get("pubmedqa", { config = "pqa_labeled" }) } }
LUA
run 2 data labeled.lua -n 0
says "medrl pull qiaojin/PubMedQA --dataset --include 'pqa_labeled/*'"
run 0 data labeled.lua -n 0 --pull
prints "pubmedqa: 3 of 3 rows from qiaojin/PubMedQA"

# --- the other layout, and local folders
run 0 data mix.lua --rows 57 --pull --set data.files.health_benchmarks=test/health
prints "row 57 of 57, med_mc, hf:test/health/Wellbeing/Wellbeing-00000-of-00001.parquet:1"
for name in openai--gsm8k qiaojin--PubMedQA yesilhealth--Health_Benchmarks; do
    mkdir -p "local/$name"
    cp -rL "$(snapshot datasets--$name)/." "local/$name/"
done
HF_HUB_OFFLINE=1 HF_HOME=$temp/none run 0 data mix.lua --rows 1,57 --set data.files.gsm8k=local/openai--gsm8k/main \
    --set data.files.pubmedqa=local/qiaojin--PubMedQA --set data.files.health_benchmarks=local/yesilhealth--Health_Benchmarks/data
prints "row 1 of 57, gsm8k, local/openai--gsm8k/main/train-00000-of-00001.parquet:1"
prints "row 57 of 57, med_mc, local/yesilhealth--Health_Benchmarks/data/Wellbeing-00000-of-00001.parquet:1"

# --- damaged: one line, 65
head -c 900 "local/openai--gsm8k/main/train-00000-of-00001.parquet" >cut.parquet
run 65 data mix.lua -n 0 --set data.files.gsm8k=cut.parquet
says 'medrl: data set "gsm8k": cut.parquet: '
passed
