#!/bin/sh
# test_hostile.sh - damaged files (those of fuzz/mutate.c) through the program itself: it says in one line which file it is and what is wrong
# with it, with exit code 65, or takes it; within half a second of a CPU and 32 MiB (seen: 7 ms and 6 MiB). What a recipe says is code 2.
#
#     test_hostile.sh MEDRL_FAULTY [N]     N: files of each format (20)
# Source: reliability.md P3.
. "$(dirname "$0")/../cli/lib.sh"
. "$(dirname "$0")/lib_faults.sh"
each=${2-20}
mutate=$(dirname "$medrl")/tests/fuzz
tiny_model tiny_smollm2
mkdir -p bad recipes
short_run
cp short.lua recipes/short.lua
sed 's/train = data.get.*/train = data.get("gsm8k") },/' short.lua >recipes/gs.lua
run 0 run short.lua -o whole -q
n=0 taken=0

# make TARGET: its damaged files in bad/
make() { "$mutate/mutate_$1" --write bad "$each" || fail "mutate_$1 cannot write"; }
# hostile CODES NAME ARGS...: one load; NAME must be in the line
hostile() {
    codes=$1 name=$2
    shift 2
    code=0
    rm -f "$temp/peak"
    MEDRL_FAULT_PEAK=$temp/peak timeout 60 "$medrl" "$@" >"$temp/out" 2>"$temp/err" <"$temp/in" || code=$?
    n=$((n + 1))
    read -r kib seconds <"$temp/peak" || fail "$file: medrl $*: it did not end by itself"
    [ "$kib" -le 32768 ] || fail "$file: medrl $*: took $kib KiB of memory, want at most 32 MiB"
    awk -v s="$seconds" 'BEGIN { exit !(s < 0.5) }' || fail "$file: medrl $*: took $seconds s of a CPU, want less than 0.5"
    case " $codes " in *" $code "*) ;; *) fail "$file: medrl $*: exit code $code, want one of $codes" ;; esac
    if [ $code = 0 ]; then
        taken=$((taken + 1))
    else
        [ "$(grep -c '^medrl: ' "$temp/err")" = 1 ] || fail "$file: medrl $*: want one line that begins with \"medrl: \""
        grep '^medrl: ' "$temp/err" | grep -qE -- "$name" || fail "$file: medrl $*: the line does not name $name"
    fi
}
folder() { # a model's folder but for one file
    rm -rf dir
    cp -r tiny dir
}

printf '{"text": "ab"}\n' >in
make safetensors
for file in bad/safetensors-*; do folder; cp "$file" dir/model.safetensors; hostile "0 65" 'model.safetensors|dir' logprobs dir; done
make gguf
for file in bad/gguf-*; do cp "$file" x.gguf; hostile "0 65" x.gguf logprobs x.gguf; done
make tokenizer
for file in bad/tokenizer-*; do folder; cp "$file" dir/tokenizer.json; hostile "0 65" tokenizer.json tokenize dir; done
make adapter
for file in bad/config-*; do folder; cp "$file" dir/config.json; hostile "0 65" 'config.json|dir' logprobs dir; done
: >in
for file in bad/adapter_config-*; do
    rm -rf dir
    cp -r whole/adapter dir
    cp "$file" dir/adapter_config.json
    hostile "0 2 65" 'adapter_config.json|dir' run recipes/short.lua -o cut -q --set model.adapter=dir --set grpo.max_steps=1
    rm -rf cut cut-*
done
make rows
for file in bad/jsonl-*; do cp "$file" x.jsonl; hostile "0 65" x.jsonl data recipes/gs.lua --set data.files.gsm8k=x.jsonl; done
for file in bad/csv-*; do cp "$file" x.csv; hostile "0 65" x.csv data recipes/gs.lua --set data.files.gsm8k=x.csv; done
make packed
for file in bad/packed-*; do cp "$file" x.jsonl; hostile "0 65" x.jsonl data recipes/gs.lua -n 0 --set data.files.gsm8k=x.jsonl; done
if "$medrl" version --json | grep -q '"carquet"'; then
    make parquet
    for file in bad/parquet-*; do cp "$file" x.parquet; hostile "0 65" x.parquet data recipes/gs.lua -n 0 --set data.files.gsm8k=x.parquet; done
fi
make checkpoint
for file in bad/manifest-* bad/trainer_state-*; do
    rm -rf cut
    cp -r whole cut
    for at in cut/checkpoint-*; do :; done
    case $file in *manifest*) cp "$file" "$at/MANIFEST" ;; *) cp "$file" "$at/trainer_state.json" ;; esac
    hostile "0 65" 'MANIFEST|trainer_state|checkpoint' hash "$at"
done
make template
for file in bad/template-*; do
    cp "$file" x.jinja
    hostile "0 2 65" x.jinja data recipes/short.lua --set model.chat_template=x.jinja
done
make recipe
for file in bad/recipe-*; do
    { printf 'return '; cat "$file"; } >recipes/x.lua
    hostile "0 2 65" 'x.lua|model' plan recipes/x.lua
done
checks=$((checks + n))
echo "$n damaged files, $taken of them are good enough"
[ $n -ge $((each * 10)) ] || fail "only $n files were tried"
passed
