#!/bin/sh
# turing.sh - the path of a T4 on any GPU: kernels compiled for compute_75 alone, float16 with a loss scale, 15 GB of memory.
#
#   tests/gpu/turing.sh [FOLDER]     FOLDER: where run.sh has built (default: build-gpu); its comparison program is used
#
# Compiles libmedrl_cuda_sm75.so into FOLDER (half a minute on 16 cores) and runs under MEDRL_SM=75: the comparisons of what has
# another path there; with .gpu (tests/gpu/pack.sh) the models' tests, ten steps of recipes/demo.lua in float16, the job of 3 billion
# weights in 15 GB with 56 updates, and, with MEDRL_SMOLLM2=FILE, 60 steps of that model. An update that is skipped in the last 50, after the
# scale has settled, is a failure. Times are those of the present GPU with a T4's instructions, without cuBLASLt: no figures of a T4; how
# those of the decode step's products compare with one is printed by `compare decode` (run.sh, bench).
set -u
top=$(cd "$(dirname "$0")/../.." && pwd)
cd "$top" || exit 1
out=${1:-build-gpu}
[ -x "$out/compare" ] || { echo "turing.sh: $out/compare is not there; run tests/gpu/run.sh first"; exit 1; }
out=$(cd "$out" && pwd)
PATH=$PATH:/usr/local/cuda/bin
arch=${ARCH:-$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader 2>/dev/null | head -1 | tr -d .)}
: "${arch:=90}"
start=$(date +%s)
failed=0
log=$out/turing.log

# compute_75 is what the code is written in, sm_$arch what it is translated to: no instruction is from later than Turing
flags="-gencode arch=compute_75,code=sm_$arch -DCU_FORCED_SM=75 -O3 -fmad=false -Xcompiler -fPIC,-fvisibility=hidden,-ffp-contract=off -D_GNU_SOURCE -Ikernels -Iruntime"
mkdir -p "$out/sm75"
{
    for f in kernels/cuda/*.cu; do echo "nvcc -std=c++17 $flags -c -o $out/sm75/$(basename "$f").o $f"; done
    for f in kernels/cuda/*.c runtime/base/status.c runtime/base/utf8.c; do
        echo "nvcc -Xcompiler -std=gnu11 $flags -c -o $out/sm75/$(basename "$f").o $f"
    done
} | xargs -P "$(nproc)" -I{} sh -c '{} || echo "turing.sh: this failed: {}"' 2>&1 | grep -v '^$'
nvcc -shared -cudart static -Xlinker --exclude-libs=ALL -o "$out/libmedrl_cuda_sm75.so" "$out"/sm75/*.o || exit 1
echo "turing: built for compute_75 in $(($(date +%s) - start)) s"

MEDRL_SM=75 MEDRL_CUDA_MODULE=$out/libmedrl_cuda.so MEDRL_HOME=$top
export MEDRL_SM MEDRL_CUDA_MODULE MEDRL_HOME
result() { # WHAT OK: the end of the log when it is not ok
    if [ "$2" = 0 ]; then
        echo "PASS  turing: $1"
    else
        echo "FAIL  turing: $1"
        tail -n "${3:-6}" "$log"
        failed=1
    fi
}

"$out/compare" weights attention linear rows >"$log" 2>&1
rc=$?
[ $rc = 77 ] && exit 77
grep -q "as a Turing, sm_75" "$log" || rc=1
grep FAIL "$log"
result "$(grep -c '^PASS' "$log") comparisons: weights, attention, products, rows" $rc

if [ -d .gpu ]; then
    for test in test_half test_tiny test_backward test_grpo_step test_group; do
        [ -x ".gpu/$test" ] || continue
        MEDRL_TEST_DEVICE=cuda timeout 150 ".gpu/$test" >"$log" 2>&1
        result "$test" $? 12
    done
fi
if [ -x .gpu/medrl ]; then
    temp=$(mktemp -d)
    trap 'rm -rf "$temp"' EXIT
    XDG_CACHE_HOME=$temp/cache MEDRL_CUDA_STRICT=1
    export XDG_CACHE_HOME MEDRL_CUDA_STRICT
    medrl=$(realpath .gpu/medrl)
    (cd "$temp" && "$medrl" run recipes/demo.lua --device cuda:0 --vram 15G -o demo --set model.dtype=float16 --set grpo.max_steps=10 \
        --set grpo.prompts_per_step=4) >"$log" 2>&1
    rc=$?
    # the scale begins at 65536, which fits this model: no update is skipped
    [ "$(grep -c '"loss_scale": *65536' "$temp/demo/metrics.jsonl" 2>/dev/null)" = 10 ] &&
        [ "$(grep -c '"skipped_updates": *0[,}]' "$temp/demo/metrics.jsonl")" = 10 ] || rc=1
    result "medrl run recipes/demo.lua, 10 steps in float16, none skipped" $rc

    "$medrl" bench --config qwen2.5-3b --device cuda:0 --dtype float16 --store nf4 --vram 15G --quick --repeats 3 --new 128 --batch 6,48 >"$log" 2>&1
    rc=$?
    grep -E "decode step|training step|whole GRPO|^memory|^float16" "$log" | sed 's/^/      /'
    grep -q "float16: loss scale [0-9.e+]*, 0 of 6 updates skipped" "$log" || rc=1
    taken=$(sed -n 's/^memory:.* taken \([0-9.]*\) GB.*/\1/p' "$log")
    awk -v taken="${taken:-99}" 'BEGIN { exit !(taken <= 15) }' || rc=1
    result "medrl bench --config qwen2.5-3b in ${taken:-?} GB of 15, none skipped" $rc 12

    "$medrl" bench --config qwen2.5-3b --device cuda:0 --dtype float16 --store nf4 --vram 15G --quick --repeats 25 --prompt 128 --new 16 --batch 6 >"$log" 2>&1
    rc=$?
    grep -q "float16: loss scale [0-9.e+]*, 0 of 50 updates skipped" "$log" || rc=1
    result "50 updates of it, none skipped" $rc 12

    if [ -r "${MEDRL_SMOLLM2-}" ]; then # a real model; counts are since the start
        model=$(realpath "$MEDRL_SMOLLM2")
        (cd "$temp" && "$medrl" run "$top/tests/gpu/job/small_mix.lua" --device cuda:0 --vram 15G -o real --set model.name="$model" \
            --set model.dtype=float16 --set grpo.max_steps=60) >"$log" 2>&1
        rc=$?
        skips=$(sed -n 's/.*"skipped_updates": *\([0-9]*\).*/\1/p' "$temp/real/metrics.jsonl" 2>/dev/null | awk 'NR == 10 { early = $1 } END { if (NR == 60) print early, $1 - early }')
        [ "${skips#* }" = 0 ] || rc=1
        result "60 steps of SmolLM2-135M in float16: updates skipped in the first 10 and in the 50 after: ${skips:-?}" $rc 12
    fi
fi
echo "turing.sh: $(($(date +%s) - start)) s in all; exit code $failed"
exit $failed
