#!/bin/sh
# run.sh - builds the fuzz targets and runs each, two at a time, from seeds that are made here of the files of the tests; fails when one finds something, and when
# one did fewer executions than it must (a harness that is broken finds nothing either).
#
#     tests/fuzz/run.sh [FACTOR]     FACTOR: of executions (1: about a minute on two quiet cores; 60: an hour)
#
# What is found lies in build-fuzz/found; it becomes a file of tests/fuzz/seeds/TARGET, which later runs begin with. Source: reliability.md, 6.
set -eu
top=$(cd "$(dirname "$0")/../.." && pwd)
factor=${1:-1}
cd "$top"
cmake --preset fuzz "-DCMAKE_C_COMPILER_LAUNCHER=${CMAKE_C_COMPILER_LAUNCHER-}" >/dev/null
targets="safetensors gguf json rows tokenizer encode checkpoint template wire hub"
# shellcheck disable=SC2046
cmake --build --preset fuzz --target $(printf 'fuzz_%s ' $targets) >build-fuzz/log || { tail -n 30 build-fuzz/log; exit 1; }
work=build-fuzz/corpus
rm -rf $work build-fuzz/found
mkdir -p build-fuzz/found
for t in $targets; do
    mkdir -p "$work/$t"
    [ ! -d "tests/fuzz/seeds/$t" ] || cp "tests/fuzz/seeds/$t/"* "$work/$t/"
done

# --- seeds: whole files and their beginnings
golden=tests/golden
part() { head -c "$3" "$2" >"$work/$1/$(basename "$2")-$3"; } # TARGET FILE BYTES
for f in "$golden"/tiny/*/*.safetensors; do
    n=$(dd if="$f" bs=8 count=1 2>/dev/null | od -An -tu4 | awk '{ print $1 }')
    name=$(basename "$(dirname "$f")")
    head -c $((n + 8)) "$f" >"$work/safetensors/$name"
    [ "$(wc -c <"$f")" -gt 65536 ] || cp "$f" "$work/safetensors/$name-whole"
done
printf '\002\000\000\000\000\000\000\000{}' >"$work/safetensors/empty"
printf '\101\000\000\000\000\000\000\000{"a":{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]},"b":{}  }0123456789abcdef' >"$work/safetensors/small"
le() { # BYTES VALUE: little-endian
    n=$2
    for _ in $(seq "$1"); do printf "\\$(printf %03o $((n % 256)))"; n=$((n / 256)); done
}
text() { le 8 ${#1}; printf %s "$1"; }
gguf() { # TYPE BLOCK_BYTES: one tensor of [2, 32] and metadata of several types
    printf GGUF; le 4 3; le 8 1; le 8 4
    text general.architecture; le 4 8; text llama
    text general.alignment; le 4 4; le 4 32
    text tokenizer.ggml.tokens; le 4 9; le 4 8; le 8 2; text a; text b
    text llama.rope.freq_base; le 4 6; le 4 1176256512
    text token_embd.weight; le 4 2; le 8 32; le 8 2; le 4 "$1"; le 8 0
    head -c 25 /dev/zero
    head -c $((2 * $2)) /dev/zero | tr '\\000' '\\074'
}
for type in 0:128 1:64 2:18 3:20 6:22 7:24 8:34 30:64; do gguf "${type%:*}" "${type#*:}" >"$work/gguf/$type"; done
find "$golden" -name '*.json' -size -64k | while read -r f; do cp "$f" "$work/json/$(echo "$f" | tr / _)"; done
for f in "$golden"/*.json; do part json "$f" 4000; done
for f in "$golden"/tokenizer_tiny96 examples/nano; do cp "$f/tokenizer.json" "$work/tokenizer/$(basename "$f")"; done
part tokenizer "$golden/tokenizer_qwen2_5/tokenizer.json" 60000
for f in README.md docs/*.md "$golden"/templates/*.jinja; do part encode "$f" 3000; done
cp "$golden"/templates/*.jinja "$work/template/"
printf '{%% for m in messages %%}{{ m.role | upper }}{%% endfor %%}' >"$work/template/loop"
{ printf '\000'; printf '{"a": 1}\n{"a": [1, 2, {"b": null}]}\n'; } >"$work/rows/jsonl"
{ printf '\001'; printf 'a,b\n1,"x\ny"\n2,"say ""hi"""\n'; } >"$work/rows/csv"
{ printf '\002'; printf 'a\tb\n1\tx\n'; } >"$work/rows/tsv"
{ printf '\003'; printf '[{"a": 1}, {"a": "\\u00e9"}]'; } >"$work/rows/json"
{ printf '\000'; printf '%064d  optimizer.safetensors\n%064d  trainer_state.json\n' 0 1; } >"$work/checkpoint/manifest"
{ printf '\001'; printf '{"global_step": 3, "medrl": {"position": {"step": 3, "seed": 7}}}'; } >"$work/checkpoint/state"
{ printf '\005\000\000\000\013'; printf 'hello'; } >"$work/wire/frame"

n=0
hub() { n=$((n + 1)); printf "$@" >"$work/hub/$n"; } # a first byte, then what a server may say
for t in x.json ../x.json /abs.json a//b.json a/../../b.json 'a/b/c.txt' C:x.json '..\\\\x' .hidden a/. '\303\251.txt' '\300\256/x'; do hub "\\000$t"; done
for t in org/name org/name@main hf:org/name/x.jsonl hf://datasets/a/b@refs/pr/1/c.csv a/b@ a--b/c ../b a/b@refs/convert/parquet; do hub "\\001$t"; done
for t in /x '?y' //cdn.example/x https://cdn.example:8443/x?sig=1 http://huggingface.co/ file:///etc/passwd https://127.0.0.1/ 'https://[fe80::1]/' \
    https://169.254.169.254/ https://2130706433/ https://u:p@h/ 'https://[::ffff:127.0.0.1]/' https://0xa9fea9fe/ https://huggingface.co:443/x; do
    hub "\\002$t"
    hub "\\003$t"
done
hub '\004HTTP/1.1 302 Found\r\nLocation: https://x/y\r\nX-Linked-Etag: "abc"\r\nX-Linked-Size: 17\r\n'
hub '\004HTTP/2 206\r\ncontent-length:5\r\ncontent-range: bytes 10-14/100\r\ncontent-encoding: gzip\r\netag: W/"a"\r\n'
hub '\004HTTP/1.1 429 x\r\nRetry-After: Sun, 06 Nov 1994 08:49:47 GMT\r\nLink: <https://a/1>; rel="first", <https://a/2>; rel="next"\r\n'

# --- runs
once() { # TARGET EXECUTIONS MAX_LEN: all of them, however long it takes (up to 5 minutes for each unit of FACTOR)
    want=$(($2 * factor)) log=build-fuzz/$1.log
    rc=0
    build-fuzz/tests/fuzz/fuzz_"$1" "$work/$1" -runs=$want -max_total_time=$((300 * factor)) -max_len="$3" -timeout=10 -rss_limit_mb=1024 -seed=1 \
        -print_final_stats=1 -artifact_prefix=build-fuzz/found/"$1"- >"$log" 2>&1 || rc=$?
    done_=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")
    if [ $rc != 0 ]; then
        echo "FAIL  fuzz $1: found something after ${done_:-?} executions: build-fuzz/found/$1-*, $log"
    elif [ "${done_:-0}" -lt $want ]; then
        echo "FAIL  fuzz $1: ${done_:-0} executions, want $want"
    else
        echo "PASS  fuzz $1: $done_ executions, $(sed -n 's/.*cov: \([0-9]*\).*/\1/p' "$log" | tail -n 1) edges"
    fi
}
lane1() {
    once safetensors 60000 20000
    once rows 40000 4000
    once hub 300000 2000
    once tokenizer 6000 8000
    once encode 20000 2000
    once wire 200000 4000
}
lane2() {
    once gguf 100000 20000
    once json 100000 4000
    once checkpoint 60000 4000
    once template 30000 4000
}
lane1 >build-fuzz/lane1 &
lane2
wait $!
cat build-fuzz/lane1
! grep -q FAIL build-fuzz/lane1 && [ -z "$(ls build-fuzz/found)" ]
