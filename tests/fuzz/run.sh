#!/bin/sh
# run.sh - builds the fuzz targets and runs each, two at a time, from seeds that are made here of the files of the tests; fails when one finds something, and when
# one did fewer executions than it must (a harness that is broken finds nothing either).
#
#     tests/fuzz/run.sh [FACTOR]     FACTOR: of executions (1: two minutes on two quiet cores, a quarter of it for the compiler; 30: an hour)
#
# What is found lies in build-fuzz/found; it becomes a file of tests/fuzz/seeds/TARGET, which later runs begin with. Source: reliability.md, 6.
set -eu
top=$(cd "$(dirname "$0")/../.." && pwd)
factor=${1:-1}
cd "$top"
cmake --preset fuzz "-DCMAKE_C_COMPILER_LAUNCHER=${CMAKE_C_COMPILER_LAUNCHER-}" >/dev/null
parquet=parquet # where its sources could be had
grep -q fuzz_parquet build-fuzz/build.ninja || { parquet=""; echo "fuzz: built without Parquet, whose reader is not tried"; }
targets="safetensors gguf json rows $parquet packed tokenizer encode adapter checkpoint recipe template wire replies control lua hub"
# shellcheck disable=SC2046
cmake --build --preset fuzz --target fuzz_seeds $(printf 'fuzz_%s ' $targets) >build-fuzz/log || { tail -n 30 build-fuzz/log; exit 1; }
# The workers of fuzz_lua are the program as shipped.
MEDRL_FUZZ_WORKER=$top/build/medrl
export MEDRL_FUZZ_WORKER
[ -x "$MEDRL_FUZZ_WORKER" ] || { cmake --preset release >/dev/null && cmake --build --preset release --target medrl >>build-fuzz/log; }
work=build-fuzz/corpus
rm -rf $work build-fuzz/found
mkdir -p build-fuzz/found
for t in $targets; do
    mkdir -p "$work/$t"
    [ ! -d "tests/fuzz/seeds/$t" ] || cp "tests/fuzz/seeds/$t/"* "$work/$t/"
done

# --- seeds: those of seeds.c, and files of the tests, whole and their beginnings
# shellcheck disable=SC2086
build-fuzz/tests/fuzz/fuzz_seeds $work ${targets% hub}
mkdir -p $work/hub
golden=tests/golden
part() { head -c "$3" "$2" >"$work/$1/$(basename "$2")-$3"; } # TARGET FILE BYTES
for f in "$golden"/tiny/*/*.safetensors; do
    n=$(dd if="$f" bs=8 count=1 2>/dev/null | od -An -tu4 | awk '{ print $1 }')
    name=$(basename "$(dirname "$f")")
    head -c $((n + 8)) "$f" >"$work/safetensors/$name"
    [ "$(wc -c <"$f")" -gt 65536 ] || cp "$f" "$work/safetensors/$name-whole"
done
find "$golden" -name '*.json' -size -64k | while read -r f; do cp "$f" "$work/json/$(echo "$f" | tr / _)"; done
for f in "$golden"/*.json; do part json "$f" 4000; done
for f in "$golden"/tokenizer_tiny96 examples/nano; do cp "$f/tokenizer.json" "$work/tokenizer/$(basename "$f")"; done
part tokenizer "$golden/tokenizer_qwen2_5/tokenizer.json" 60000
for f in README.md docs/*.md "$golden"/templates/*.jinja; do part encode "$f" 3000; done
cp "$golden"/templates/*.jinja "$work/template/"
i=0 # one of eight is saved over a reward that is in use (fuzz_lua.c), which takes as long as three others
for f in tests/lua/escape/*.lua; do
    case $f in */3[78]_* | */4[25-9]_* | */5[0-5]_* | */6[56]_* | */21_*) continue ;; esac # they hang, each for its deadline
    i=$((i + 1))
    { if [ $((i % 8)) = 0 ]; then printf '\003'; else printf '\001'; fi; cat "$f"; } >"$work/lua/$(basename "$f")"
done
for f in lua/rewards/*.lua; do
    i=$((i + 1))
    { if [ $((i % 8)) = 0 ]; then printf '\002'; else printf '\000'; fi; cat "$f"; } >"$work/lua/$(basename "$f")"
done
[ -z "$parquet" ] || find "$golden/parquet" -name '*.parquet' -size -16k -exec cp {} "$work/parquet/" \;

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
once() { # TARGET EXECUTIONS MAX_LEN OPTIONS...: all of them, however long it takes (on a busy machine up to 10 minutes for each unit of FACTOR)
    target=$1 want=$(($2 * factor)) most=$3 log=build-fuzz/$1.log
    shift 3
    rc=0
    build-fuzz/tests/fuzz/fuzz_"$target" "$work/$target" -runs=$want -max_total_time=$((600 * factor)) -max_len="$most" -timeout=10 -rss_limit_mb=1024 \
        -seed=1 -print_final_stats=1 -artifact_prefix=build-fuzz/found/"$target"- "$@" >"$log" 2>&1 || rc=$?
    done_=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")
    if [ $rc != 0 ]; then
        echo "FAIL  fuzz $target: found something after ${done_:-?} executions: build-fuzz/found/$target-*, $log"
    elif [ "${done_:-0}" -lt $want ]; then
        echo "FAIL  fuzz $target: ${done_:-0} executions, want $want"
    else
        echo "PASS  fuzz $target: $done_ executions, at least $want, $(sed -n 's/.*cov: \([0-9]*\).*/\1/p' "$log" | tail -n 1) edges, $(sed -n 's/^Done.* in \([0-9]*\) second.*/\1/p' "$log") s"
    fi
}
# Section 6's least number of each, at least; where a row of it has two targets, of both together. The lanes take as long as each other on two
# quiet cores. lua starts a process or more an execution, in 6 ms: slow inputs are tried less (each hang costs its deadline), and seeds are kept
# whether or not they reach more of the trainer's side, which is all that is watched.
lane1() {
    once lua 10000 2000 -keep_seed=1 -entropic_scale_per_exec_time=1
    once safetensors 300000 4000
    once control 6000 4000
    once tokenizer 20000 4000
    once recipe 6000 3000
}
lane2() {
    once encode 100000 300
    [ -z "$parquet" ] || once parquet 100000 6000
    once rows 200000 1500
    once gguf 300000 4000
    once json 200000 4000
    once hub 300000 2000
    once wire 180000 4000
    once packed 20000 2000
    once template 46000 4000
    once replies 20000 4000
    once checkpoint 60000 4000
    once adapter 60000 2000
}
lane1 >build-fuzz/lane1 &
lane2
wait $!
cat build-fuzz/lane1
! grep -q FAIL build-fuzz/lane1 && [ -z "$(ls build-fuzz/found)" ]
