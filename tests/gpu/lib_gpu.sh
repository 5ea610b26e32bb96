# lib_gpu.sh - sourced by kills.sh, program.sh, job/job.sh and job/smollm2.sh with their arguments MEDRL MODULE: a folder of its own, the module that
# is asked for, and lines PASS and FAIL. The program is started without LD_LIBRARY_PATH, as its workers are.
# shellcheck shell=sh disable=SC2034
set -u
medrl=$(realpath "$1") MEDRL_CUDA_MODULE=$(realpath "$2")
MEDRL_HOME=$(cd "$(dirname "$0")" && until [ -d lua/recipes ] || [ "$PWD" = / ]; do cd ..; done && pwd)
temp=$(mktemp -d)
trap 'rm -rf "$temp"' EXIT
XDG_CACHE_HOME=$temp/cache
export MEDRL_CUDA_MODULE MEDRL_HOME XDG_CACHE_HOME
unset LD_LIBRARY_PATH MEDRL_TEST_DEVICE
cd "$temp" || exit 1
failed=0 script=$(basename "$0" .sh)

result() { # WHAT OK [FIGURE]: prints it, with the end of the log when it is not ok
    if [ "$2" = 0 ]; then
        echo "PASS  $script: $1${3:+: $3}"
    else
        echo "FAIL  $script: $1${3:+: $3}"
        tail -n 8 log
        failed=1
    fi
}
