#!/bin/sh
# A GPU that is not there, too old, too full or failing: one line that says what to do, the exit code, the last checkpoint whole. What
# needs a GPU runs on the emulated one (tests/gpu/emulate), which can be told to fail.
. "$(dirname "$0")/lib.sh"

module=$(dirname "$medrl")/cuda_emulated/libmedrl_cuda.so
recipe=recipes/demo.lua
cd "$temp" || exit 1

# --- what can be said without a module ---
run 0 run --help
prints "auto, cpu or cuda:N"
run 2 plan $recipe --device gpu
says 'want auto, cpu or cuda:N'
MEDRL_CUDA_MODULE=$temp/none.so
export MEDRL_CUDA_MODULE
run 2 plan $recipe --device cuda:0
says "none.so is not there; build it with \`./bootstrap cuda\`"
is "$(wc -c <"$temp/out")" 0 # asked for: never the CPU instead

# auto takes the CPU; it says why where the system shows a GPU, and nothing where there is none
if [ ! -e /dev/nvidiactl ] && [ ! -e /dev/nvidia0 ] && [ ! -e /usr/lib/wsl/lib/libcuda.so.1 ]; then
    run 0 plan $recipe
    is "$(grep -c 'GPU\|cuda' "$temp/err")" 0
    # a file system of its own for one command, where this user may have one
    if unshare -rm sh -c 'mount -t tmpfs none /dev' 2>/dev/null; then
        code=0
        unshare -rm sh -c 'mount -t tmpfs none /dev && : >/dev/null >/dev/nvidiactl && exec "$@"' sh "$medrl" plan $recipe --json \
            >"$temp/out" 2>"$temp/err" || code=$?
        is "$code" 0
        is "$(grep -c 'GPU\|cuda' "$temp/err")" 1
        says "warning: an NVIDIA GPU is here, but auto takes the CPU: device cuda:0: $temp/none.so is not there; build it with"
    fi
fi

if [ ! -e "$module" ]; then
    echo "no emulated module beside $medrl: the rest is left out"
    passed
    exit 0
fi
MEDRL_CUDA_MODULE=$module

# --- drivers and devices ---
refused() { # NAME=VALUE TEXT
    export "${1?}"
    run 2 plan $recipe --device cuda:0
    says "$2"
    unset "${1%%=*}"
}
refused MEDRL_EMULATE_DRIVER=0 "this machine has no NVIDIA driver (libcuda.so.1 is not there); install the driver"
refused MEDRL_EMULATE_DRIVER=11040 "the NVIDIA driver knows CUDA 11.4, but this module was built with 13.0; update the driver"
refused MEDRL_EMULATE_GPUS=0 "the driver sees no GPU; look at \`nvidia-smi\`"
refused MEDRL_EMULATE_SM=70 "has compute capability 7.0, need at least 7.5"
run 2 plan $recipe --device cuda:1
says "this machine has 1 GPU, expected cuda:0"

# --- memory ---
small="--set grpo.prompts_per_step=1 --set grpo.num_generations=2 --set grpo.max_completion_length=8 --set lora.r=4"
# shellcheck disable=SC2086
run 71 run $recipe --device cuda:0 -o full $small --vram 20M
says "at least"
[ ! -e full ] || fail "a run that does not fit has a folder"
# the n-th allocation fails, though the plan fitted: at open, for a weight, for the adapter, for the optimizer
for n in 2 20 60 100; do
    rm -rf full
    export MEDRL_EMULATE_FAIL_ALLOC=$n
    # shellcheck disable=SC2086
    run 71 run $recipe --device cuda:0 -o full $small --set grpo.max_steps=1
    unset MEDRL_EMULATE_FAIL_ALLOC
    says nvidia-smi
done

# --- an illegal address in the middle ---
train() { # CODE FOLDER
    # shellcheck disable=SC2086
    run "$1" run $recipe --device cuda:0 -o "$2" $small --set grpo.max_steps=3 --set grpo.save_steps=1
}
train 0 whole
export MEDRL_EMULATE_FAULT=40
train 70 early
says "an illegal memory access was encountered (cudaErrorIllegalAddress); MEDRL_CUDA_SYNC=1 names the kernel"
MEDRL_EMULATE_FAULT=./cut/checkpoint-2/MANIFEST # in the third step
train 70 cut
says "medrl: cut: cuda:0: "
says "cudaErrorIllegalAddress"
says "continue with: medrl resume cut"
unset MEDRL_EMULATE_FAULT
[ -e cut/checkpoint-2/MANIFEST ] || fail "no checkpoint from before the fault"
cp -r cut other
run 0 resume cut --device cuda:0
is "$(grep -c 'was started on' "$temp/err")" 0
run 0 hash whole
cp "$temp/out" "$temp/want"
run 0 hash cut
is "$(cat "$temp/out")" "$(cat "$temp/want")"

# a run of the GPU goes on with the CPU when that is allowed, and a line says so; and the other way round
run 77 resume other --device cpu
says "was made on emulated GPU"
says "this is cpu "
says "--allow-different-device"
run 0 resume other --device cpu --allow-different-device
says "warning: other/checkpoint-2: was made on emulated GPU"
# shellcheck disable=SC2086
run 0 run $recipe --device cpu -o cpu $small --set grpo.max_steps=2 --set grpo.save_steps=1
rm -rf cpu/checkpoint-2
run 77 resume cpu --device cuda:0
says "cpu/checkpoint-1: was made on cpu "
says "this is emulated GPU"
run 0 resume cpu --device cpu
is "$(grep -c 'was made on' "$temp/err")" 0

# another instruction set computes other bits too; another build may
# shellcheck disable=SC2086
MEDRL_CPU_ISA=avx2 "$medrl" run $recipe --device cpu -o old $small --set grpo.max_steps=2 --set grpo.save_steps=1 -q >"$temp/out" 2>"$temp/err" ||
    fail "a run with AVX2"
rm -rf old/checkpoint-2
if grep -qE '"device": "cpu (avx512|amx)' cpu/checkpoint-1/trainer_state.json; then
    run 77 resume old --device cpu
    says "was made on cpu avx2, this is cpu a"
fi
state=old/checkpoint-1/trainer_state.json
sed -i 's/"build": "medrl [^"]*"/"build": "medrl 0.0.1, a compiler"/' $state
(cd old/checkpoint-1 && sha256sum adapter_config.json adapter_model.safetensors optimizer.safetensors trainer_state.json >MANIFEST)
MEDRL_CPU_ISA=avx2 "$medrl" resume old --device cpu >"$temp/out" 2>"$temp/err" || fail "resume after another build"
says "was made by medrl 0.0.1, a compiler, this is medrl "

passed
