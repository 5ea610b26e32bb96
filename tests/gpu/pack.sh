#!/bin/sh
# pack.sh - the program and the models' tests with their libraries, in .gpu: for run.sh in a copy of this clone on a GPU machine that has
# none of the program's packages. Takes them from a build of its own, whose tests look for tests/golden below the current folder. The
# libraries are found beside the programs (rpath), since workers are started without any environment.
set -eu
cd "$(dirname "$0")/../.."
tests="test_tiny test_backward test_group test_adapter test_bnb test_grpo_step test_rollout test_plan test_half test_exact test_parity"
cmake -S . -B build-gpu-pack -G Ninja -DCMAKE_BUILD_TYPE=Release -DMEDRL_CUDA=OFF -DMEDRL_TEST_ROOT=. \
    "-DCMAKE_BUILD_RPATH=\$ORIGIN/lib" -DCMAKE_EXE_LINKER_FLAGS=-Wl,--disable-new-dtags >/dev/null
# shellcheck disable=SC2086
cmake --build build-gpu-pack --target medrl $tests >/dev/null
rm -rf .gpu
mkdir -p .gpu/lib
for program in medrl $tests; do
    file=build-gpu-pack/tests/$program
    [ "$program" = medrl ] && file=build-gpu-pack/medrl
    cp "$file" .gpu/
    ldd "$file" | awk '$3 ~ /^\// { print $3 }' | grep -vE '/(libc|libm|libpthread|libdl)\.so' |
        while read -r lib; do cp -L "$lib" .gpu/lib/; done
    strip ".gpu/$program"
done
du -sh .gpu
