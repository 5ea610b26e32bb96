#!/bin/sh
# pack.sh - the models' tests as programs with their libraries, in .gpu: for run.sh in a copy of this clone on a GPU machine that has
# none of the program's packages. Takes them from a build of its own, whose programs look for tests/golden below the current folder.
set -eu
cd "$(dirname "$0")/../.."
tests="test_tiny test_backward test_group test_adapter test_grpo_step test_rollout"
cmake -S . -B build-gpu-pack -G Ninja -DCMAKE_BUILD_TYPE=Release -DMEDRL_CUDA=OFF -DMEDRL_TEST_ROOT=. >/dev/null
# shellcheck disable=SC2086
cmake --build build-gpu-pack --target $tests >/dev/null
rm -rf .gpu
mkdir -p .gpu/lib
for test in $tests; do
    cp "build-gpu-pack/tests/$test" .gpu/
    ldd ".gpu/$test" | awk '$3 ~ /^\// { print $3 }' | grep -vE '/(libc|libm|libpthread|libdl)\.so' |
        while read -r lib; do cp -L "$lib" .gpu/lib/; done
    strip ".gpu/$test"
done
du -sh .gpu
