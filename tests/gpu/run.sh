#!/bin/sh
# run.sh - on a machine with a GPU: builds the CUDA module for it and the comparison program, and runs both (under 4 minutes).
#
#   tests/gpu/run.sh [FOLDER]     FOLDER: where to build (default: build-gpu); an argument "nobench" after it leaves the timings out
#
# CHECK=1 runs the small comparison under compute-sanitizer too. Needs a C compiler and nvcc, nothing else: kernels/cpu and
# kernels/cuda stand without the libraries of the program. With the folder .gpu (tests/gpu/pack.sh makes it on a machine that has
# them) the models' tests run on the GPU too, and the program: program.sh. MEDRL_SMOLLM2=FILE.gguf lets test_parity compare that model
# with the CPU.
set -u
top=$(cd "$(dirname "$0")/../.." && pwd)
cd "$top" || exit 1
out=${1:-build-gpu}
bench=bench
[ "${2-}" = nobench ] && bench=""
PATH=$PATH:/usr/local/cuda/bin
command -v nvcc >/dev/null 2>&1 || { echo "run.sh: no nvcc in PATH or /usr/local/cuda/bin; install the CUDA toolkit"; exit 1; }
arch=${ARCH:-$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader 2>/dev/null | head -1 | tr -d .)}
: "${arch:=90}"
mkdir -p "$out" && out=$(cd "$out" && pwd) || exit 1
start=$(date +%s)
nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader 2>/dev/null | head -1

include="-D_GNU_SOURCE -Ikernels -Iruntime -Itests/gpu"
host="-std=gnu11 -O2 -fPIC -ffp-contract=off -fno-strict-aliasing $include"
device="-gencode arch=compute_$arch,code=sm_$arch -O3 -fmad=false -Xcompiler -fPIC,-fvisibility=hidden,-ffp-contract=off $include"
jobs=$(nproc)
{
    for f in kernels/cuda/*.cu; do echo "nvcc -std=c++17 $device -c -o $out/$(basename "$f").o $f"; done
    for f in kernels/cuda/*.c runtime/base/status.c; do
        echo "nvcc -Xcompiler -std=gnu11 $device -c -o $out/module_$(basename "$f").o $f"
    done
    for f in kernels/cpu/*.c kernels/open.c runtime/base/status.c runtime/base/memory.c runtime/base/threads.c tests/gpu/*.c; do
        echo "${CC:-gcc} $host -Wno-psabi -c -o $out/$(basename "$f").host.o $f"
    done
} | xargs -P "$jobs" -I{} sh -c '{} || echo "run.sh: this failed: {}"' 2>&1 | grep -v '^$'
nvcc -shared -cudart static -Xlinker --exclude-libs=ALL -o "$out/libmedrl_cuda.so" "$out"/*.cu.o "$out"/module_*.o || exit 1
"${CC:-gcc}" -o "$out/compare" "$out"/*.host.o -lm -ldl -lpthread || exit 1
echo "built for sm_$arch in $(($(date +%s) - start)) s"

"$out/compare"
rc=$?
[ $rc = 77 ] && exit 77
if [ -n "${CHECK-}" ]; then # takes a minute or two more: reads and writes out of place, and races in shared memory
    for tool in memcheck racecheck; do
        compute-sanitizer --tool "$tool" --print-limit 20 "$out/compare" small elementwise optimizer head attention linear 2>&1 |
            grep -vE '^PASS|^      '
    done
fi
if [ -d .gpu ]; then
    # programs from elsewhere, with their libraries; the module is the one built here
    for test in .gpu/test_*; do
        if MEDRL_TEST_FULL=1 MEDRL_CUDA_STRICT=1 MEDRL_TEST_DEVICE=cuda MEDRL_CUDA_MODULE=$out/libmedrl_cuda.so \
            timeout 100 "$test" >"$out/log" 2>&1; then
            echo "PASS  models: $(basename "$test")"
            grep -E "compared|samples of|differ by|left out" "$out/log" | sed 's/^/      /'
        else
            echo "FAIL  models: $(basename "$test")"
            grep -E "want|failed|ERROR|error" "$out/log" | head -5
            rc=1
        fi
    done
    if [ -x .gpu/medrl ]; then
        MEDRL_CUDA_STRICT=1 tests/gpu/program.sh .gpu/medrl "$out/libmedrl_cuda.so" || rc=1
    fi
fi
tests/gpu/turing.sh "$out" || rc=1
[ -n "$bench" ] && { "$out/compare" bench || rc=1; }
echo "run.sh: $(($(date +%s) - start)) s in all; exit code $rc"
exit $rc
