#!/bin/sh
# run.sh - medrl and its peers one after another on this machine, and the ratios. Only figures of one run are compared.
#
#     PYTHON=/path/to/venv/bin/python tests/bench/run.sh [folder for the JSON files]
#
# MEDRL is the program (build/medrl), MODEL_GGUF the model (the quickstart's, from the cache), THREADS the cores. Peers:
# torch with gguf and numpy (peers/torch_grpo.py), llama-cpp-python (peers/llamacpp.py). A peer that is not installed is
# skipped, and said so.
set -u
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
python=${PYTHON:-python3}
medrl=${MEDRL:-$root/build/medrl}
gguf=${MODEL_GGUF:-${XDG_CACHE_HOME:-$HOME/.cache}/medrl/models/smollm2-135m-instruct.gguf}
threads=${THREADS:-$(nproc)}
out=${1:-$(mktemp -d /tmp/medrl-bench.XXXXXX)}
export PYTHONDONTWRITEBYTECODE=1

[ -x "$medrl" ] || { echo "run.sh: $medrl is not there; build it first (./bootstrap)" >&2; exit 2; }
[ -f "$gguf" ] || {
    echo "run.sh: $gguf is not there; ./bootstrap run fetches it, MODEL_GGUF names another" >&2
    exit 2
}
mkdir -p "$out" || exit 74
rm -f "$out/medrl.json" "$out/torch.json" "$out/llamacpp.json"

echo "load before: $(cut -d' ' -f1-3 /proc/loadavg), $threads threads, results in $out"
echo "medrl bench ..."
"$medrl" bench --model "$gguf" --threads "$threads" --json >"$out/medrl.json" || exit $?

# peer NAME MODULES COMMAND...
peer() {
    name=$1 modules=$2
    shift 2
    if ! why=$("$python" -c "import $modules" 2>&1); then
        echo "$name: skipped, $python cannot import $modules ($(printf '%s\n' "$why" | tail -n 1))"
        return
    fi
    echo "$name ..."
    "$python" "$@" >"$out/$name.json" || { echo "$name: failed, left out"; rm -f "$out/$name.json"; }
}
peer llamacpp "llama_cpp, gguf, numpy" "$here/peers/llamacpp.py" "$gguf" --threads "$threads"
peer torch "torch, gguf, numpy" "$here/peers/torch_grpo.py" "$gguf" --threads "$threads" ${TORCH_ARGS:-}

echo "load after: $(cut -d' ' -f1-3 /proc/loadavg)"
if [ -f "$out/torch.json" ] || [ -f "$out/llamacpp.json" ]; then
    "$python" "$here/compare.py" "$out"
else
    cat "$out/medrl.json"
fi
