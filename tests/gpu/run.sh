#!/bin/sh
# run.sh - on a machine with a GPU: everything that can be shown there, and one table at the end (part, result, seconds, figure). On an
# H100 compare, sanitizer, models, program and turing take 495 s, of which racecheck takes 378 beside the others; job and bench some two minutes more.
#
#   tests/gpu/run.sh [FOLDER] [PART ...]     FOLDER: where to build (default: build-gpu). PARTs: only these; noPART: all but that one
#
#   compare     every operation against the CPU's, the row rule on the device
#   sanitizer   the small comparison under compute-sanitizer, memcheck and racecheck, beside the four that follow
#   models      the models' tests, whose fixtures are the CPU's
#   program     program.sh: a run, the same killed and resumed, what is refused
#   smollm2     job/smollm2.sh: 30 steps of a real model whose reward rises; wants MEDRL_SMOLLM2=FILE
#   turing      turing.sh: the kernels of sm_75, forced on the present GPU
#   job         job/job.sh: the seed's job at Qwen2.5-3B's shape, JOB_STEPS steps (10)
#   bench       medrl bench at Qwen2.5-3B's shape, then the operations' timings, each with its share of its own limit, here and as a Turing
#
# Building comes first and needs a C compiler and nvcc, nothing else: kernels/cpu and kernels/cuda stand without the libraries of the
# program. models to smollm2, and medrl bench, need the folder .gpu, which pack.sh makes on a machine that has them. Logs are
# FOLDER/log.PART. ARCH=90 builds for another GPU than the present one. Exit code: 0, 1 when a part failed, 77 without a GPU.
set -u
top=$(cd "$(dirname "$0")/../.." && pwd)
cd "$top" || exit 1
out=${1:-build-gpu}
[ $# -gt 0 ] && shift
chosen=" $* "
PATH=$PATH:/usr/local/cuda/bin
command -v nvcc >/dev/null 2>&1 || { echo "run.sh: no nvcc in PATH or /usr/local/cuda/bin; install the CUDA toolkit"; exit 1; }
arch=${ARCH:-$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader 2>/dev/null | head -1 | tr -d .)}
: "${arch:=90}"
[ "$arch" = 90 ] && arch=90a # with what sm_90 alone has: kernels/cuda/wgmma.cuh
mkdir -p "$out" && out=$(cd "$out" && pwd) || exit 1
module=$out/libmedrl_cuda.so
rc=0
now() { date +%s.%N; }
since() { now | awk -v t="$1" '{ printf "%.0f", $1 - t }'; }
start=$(now)
: >"$out/table"

# wanted PART: whether the arguments ask for it
wanted() {
    case $chosen in *" no$1 "*) return 1 ;; *" $1 "*) return 0 ;; esac
    for word in $chosen; do
        case $word in no*) ;; *) return 1 ;; esac
    done
}
# row PART RESULT BEGAN FIGURE: a line of the table; RESULT: ok, FAIL or skip
row() {
    printf '%-10s %-6s %5s  %s\n' "$1" "$2" "$(since "$3")" "$4" >>"$out/table"
    [ "$2" = FAIL ] && rc=1
    return 0
}
# verdict CODE: the word for it
verdict() { case $1 in 0) echo ok ;; 77) echo skip ;; *) echo FAIL ;; esac; }
last() { grep "$1" "$2" | tail -n 1; }

# --- build ---
t=$(now)
include="-D_GNU_SOURCE -Ikernels -Iruntime -Itests/gpu"
host="-std=gnu11 -O2 -fPIC -ffp-contract=off -fno-strict-aliasing $include"
device="-gencode arch=compute_$arch,code=sm_$arch -O3 -fmad=false -Xcompiler -fPIC,-fvisibility=hidden,-ffp-contract=off $include"
{
    for f in kernels/cuda/*.cu; do echo "nvcc -std=c++17 $device -c -o $out/$(basename "$f").o $f"; done
    for f in kernels/cuda/*.c runtime/base/status.c runtime/base/utf8.c; do
        echo "nvcc -Xcompiler -std=gnu11 $device -c -o $out/module_$(basename "$f").o $f"
    done
    for f in kernels/cpu/*.c kernels/open.c runtime/base/status.c runtime/base/utf8.c runtime/base/memory.c runtime/base/threads.c tests/gpu/*.c; do
        echo "${CC:-gcc} $host -Wno-psabi -c -o $out/$(basename "$f").host.o $f"
    done
    echo "${CC:-gcc} -std=gnu11 -O3 -o $out/make_model tests/gpu/job/make_model.c -lm -lpthread"
} | xargs -P "$(nproc)" -I{} sh -c '{} || echo "run.sh: this failed: {}"' 2>&1 | grep -v '^$'
nvcc -shared -cudart static -Xlinker --exclude-libs=ALL -o "$module" "$out"/*.cu.o "$out"/module_*.o || exit 1
"${CC:-gcc}" -o "$out/compare" "$out"/*.host.o -lm -ldl -lpthread || exit 1
row build ok "$t" "sm_$arch, $(nvcc --version | sed -n 's/.*release \([0-9.]*\).*/CUDA \1/p')"

# --- the parts ---
part_compare() {
    t=$(now)
    "$out/compare" >"$out/log.compare" 2>&1
    code=$?
    cat "$out/log.compare"
    row compare "$(verdict $code)" "$t" "$(last '' "$out/log.compare")"
    [ $code = 77 ] && rc=77
}

# sanitize TOOL PROGRAM ARGS...: its log in log.TOOL; counts are taken from the summary line. Allocations that fail on purpose are no errors
# of a kernel.
sanitize() {
    tool=$1
    shift
    timeout 400 compute-sanitizer --tool "$tool" $flags --print-limit 20 --error-exitcode 9 "$@" >"$out/log.$tool" 2>&1
    echo $? >"$out/code.$tool"
}
begin_sanitizer() {
    sanitizer_began=$(now)
    rm -f "$out"/code.*check
    command -v compute-sanitizer >/dev/null 2>&1 || return 0
    flags="--report-api-errors no" sanitize memcheck "$out/compare" small weights elementwise optimizer head attention linear &
    flags="" sanitize racecheck "$out/compare" small weights elementwise optimizer head attention linear &
}
end_sanitizer() {
    if ! command -v compute-sanitizer >/dev/null 2>&1; then
        row sanitizer skip "$sanitizer_began" "no compute-sanitizer in PATH"
        return
    fi
    wait
    code=0 said=
    for tool in memcheck racecheck; do
        [ "$(cat "$out/code.$tool")" = 0 ] || code=1
        said="$said${said:+; }$tool: $(sed -n 's/^=* *[A-Z]* SUMMARY: //p' "$out/log.$tool" | tail -n 1)"
        [ "$(cat "$out/code.$tool")" = 0 ] || grep -vE '^PASS|^      ' "$out/log.$tool" | head -n 25
    done
    row sanitizer "$(verdict $code)" "$sanitizer_began" "$said"
}

part_models() {
    t=$(now) good=0 bad=0
    for test in .gpu/test_*; do
        [ -x "$test" ] || continue
        if MEDRL_TEST_FULL=1 MEDRL_CUDA_STRICT=1 MEDRL_TEST_DEVICE=cuda MEDRL_CUDA_MODULE=$module \
            timeout 150 "$test" >"$out/log.models" 2>&1; then
            good=$((good + 1))
            grep -E "compared|samples of|differ by|left out" "$out/log.models" | sed "s|^|      $(basename "$test"): |"
        else
            bad=$((bad + 1))
            echo "FAIL  models: $(basename "$test")"
            grep -E "want|failed|ERROR|error" "$out/log.models" | head -n 5
        fi
    done
    row models "$(verdict $bad)" "$t" "$good of $((good + bad)) test programs"
}

# script PART FIGURE COMMAND...: one that prints PASS and FAIL lines; FIGURE: a pattern for the line of the table, or count
script() {
    name=$1 pattern=$2
    shift 2
    t=$(now)
    "$@" >"$out/log.$name" 2>&1
    code=$?
    cat "$out/log.$name"
    if [ "$pattern" = count ]; then
        figure="$(grep -c '^PASS' "$out/log.$name") passed, $(grep -c '^FAIL' "$out/log.$name") failed"
    else
        figure=$(last "$pattern" "$out/log.$name" | sed 's/^[A-Z]* *[a-z0-9]*: *//')
    fi
    row "$name" "$(verdict $code)" "$t" "$figure"
}
part_program() { script program count env MEDRL_CUDA_STRICT=1 tests/gpu/program.sh .gpu/medrl "$module"; }
part_job() {
    script job ' steps of ' env MEDRL_CUDA_STRICT=1 tests/gpu/job/job.sh .gpu/medrl "$module" "$out/make_model" "${JOB_STEPS:-10}"
    for line in 'start to the end' '^memory:' '^difference'; do
        printf '%-25s%s\n' "" "$(last "$line" "$out/log.job" | sed 's/^[A-Z]* *job: //')" >>"$out/table"
    done
}
part_smollm2() { script smollm2 'smollm2:' env MEDRL_CUDA_STRICT=1 tests/gpu/job/smollm2.sh .gpu/medrl "$module"; }
part_turing() {
    if [ -x tests/gpu/turing.sh ]; then
        script turing count tests/gpu/turing.sh "$out"
    else
        row turing skip "$(now)" "no tests/gpu/turing.sh"
    fi
}
part_bench() {
    t=$(now) code=0
    if [ -x .gpu/medrl ]; then
        MEDRL_CUDA_MODULE=$module MEDRL_HOME=$top .gpu/medrl bench --config qwen2.5-3b --device cuda:0 --store nf4 --rank 64 \
            --prompt 512 --new 512 --group 6 --quick >"$out/log.medrl_bench" 2>"$out/log.bench"
        code=$?
        cat "$out/log.medrl_bench"
        [ $code = 0 ] || tail -n 5 "$out/log.bench"
    fi
    "$out/compare" bench >"$out/log.bench" 2>&1 || code=$?
    cat "$out/log.bench"
    if [ -e "$out/libmedrl_cuda_sm75.so" ]; then # turing.sh has built it
        MEDRL_SM=75 MEDRL_CUDA_MODULE=$module "$out/compare" decode >"$out/log.decode" 2>&1 || code=$?
        cat "$out/log.decode"
    fi
    row bench "$(verdict $code)" "$t" "6 x (512 + 512): $(sed -n 's/^\(decode step, 1 x 6\|training step\|whole GRPO step\) *\([0-9.]* ms\).*/\1 \2/p' "$out/log.medrl_bench" 2>/dev/null | sed 's/, 1 x 6//' | paste -sd, | sed 's/,/, /g'); $(grep 'below half' "$out/log.bench" | sed 's/^ *//; s/:$//')"
}

wanted compare && part_compare
if [ $rc != 77 ]; then
    wanted sanitizer && begin_sanitizer
    if [ -d .gpu ]; then
        wanted models && part_models
        wanted program && part_program
    fi
    [ -d .gpu ] && wanted smollm2 && part_smollm2
    wanted turing && part_turing
    wanted sanitizer && end_sanitizer
    [ -d .gpu ] && wanted job && part_job
    wanted bench && part_bench
fi

echo
nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader 2>/dev/null | head -n 1
printf '%-10s %-6s %5s  %s\n' part result s figure
cat "$out/table"
echo "run.sh: $(since "$start") s in all, $(date +%Y-%m-%d); exit code $rc"
exit $rc
