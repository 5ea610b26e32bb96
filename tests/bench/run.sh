#!/bin/sh
# run.sh - medrl and its peers one after another on this machine, and the ratios. Only figures of one run are compared.
#
#     PYTHON=/path/to/venv/bin/python tests/bench/run.sh [folder for the JSON files]
#
# MEDRL is the program (build/medrl), MODEL_GGUF the model (the quickstart's, from the cache), THREADS the cores, LIMIT
# the seconds that a program may take (300), MEDRL_ARGS and TORCH_ARGS more options. Peers: torch with gguf and numpy
# (peers/torch_grpo.py), llama-cpp-python with the same (peers/llamacpp.py). A peer that is not installed, fails or
# takes too long is left out, with a line that says so.
set -u
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
python=${PYTHON:-python3}
medrl=${MEDRL:-$root/build/medrl}
gguf=${MODEL_GGUF:-${XDG_CACHE_HOME:-$HOME/.cache}/medrl/models/smollm2-135m-instruct.gguf}
threads=${THREADS:-$(nproc)}
limit=${LIMIT:-300}
out=${1:-$(mktemp -d "${TMPDIR:-/tmp}/medrl-bench.XXXXXX")}
export PYTHONDONTWRITEBYTECODE=1

[ -x "$medrl" ] || { echo "run.sh: $medrl is not there; build it first (./bootstrap)" >&2; exit 2; }
[ -f "$gguf" ] || {
    echo "run.sh: $gguf is not there; ./bootstrap run fetches it, MODEL_GGUF names another" >&2
    exit 2
}
mkdir -p "$out" || exit 74
rm -f "$out/medrl.json" "$out/torch.json" "$out/llamacpp.json"

load() { cut -d' ' -f1-3 /proc/loadavg 2>/dev/null || echo unknown; }

# limited NAME COMMAND...: its JSON to NAME.json, or a line that says why there is none
limited() {
    name=$1
    shift
    echo "$name (load $(load)) ..."
    timeout "$limit" "$@" >"$out/$name.json" && return 0
    code=$?
    rm -f "$out/$name.json"
    if [ $code -eq 124 ]; then
        echo "$name: left out, it took more than $limit s (LIMIT sets the seconds)"
    else
        echo "$name: left out, it failed with exit code $code"
    fi
    return 1
}

# peer NAME MODULES COMMAND...
peer() {
    name=$1 modules=$2
    shift 2
    if why=$("$python" -c "import $modules" 2>&1); then
        limited "$name" "$python" "$@"
    else
        echo "$name: left out, $python cannot import $modules ($(printf '%s\n' "$why" | tail -n 1))"
    fi
}

echo "$threads threads, results in $out"
limited medrl "$medrl" bench --model "$gguf" --threads "$threads" --json ${MEDRL_ARGS:-} || exit 75
peer llamacpp "llama_cpp, gguf, numpy" "$here/peers/llamacpp.py" "$gguf" --threads "$threads"
peer torch "torch, gguf, numpy" "$here/peers/torch_grpo.py" "$gguf" --threads "$threads" ${TORCH_ARGS:-}
echo "load at the end: $(load)"

if command -v "$python" >/dev/null; then
    "$python" "$here/compare.py" "$out"
else
    cat "$out/medrl.json"
fi
