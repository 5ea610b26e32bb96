#!/bin/sh
# scale.sh - how times and memory grow with batch, context, rank and model: the tables and pictures of docs/performance.md, in one run.
#
#   tests/bench/scale.sh OUT [MEDRL [ARGS ...]]     MEDRL: the program (build/medrl, else .gpu/medrl); ARGS: of `medrl bench`, as --quick
#   tests/bench/scale.sh OUT docs                   puts what is in OUT into docs/performance.md, "How it scales", and docs/img
#
# On the GPU (MEDRL_CUDA_MODULE, or the module beside MEDRL), two to three minutes. Into OUT: scale.json, scale.md, scale-AXIS.svg.
set -eu
top=$(cd "$(dirname "$0")/../.." && pwd)
out=${1:?usage: tests/bench/scale.sh OUT [MEDRL [ARGS ...]], or OUT docs}
shift
if [ "${1:-}" = docs ]; then
    page=$top/docs/performance.md
    grep -q '^<!-- scale.md -->$' "$page" && grep -q '^<!-- end of scale.md -->$' "$page" || { echo "scale.sh: $page has no marks for scale.md"; exit 1; }
    mkdir -p "$top/docs/img"
    cp "$out"/scale-*.svg "$top/docs/img/"
    awk -v text="$out/scale.md" '
        /^<!-- end of scale.md -->$/ { inside = 0 }
        !inside { print }
        /^<!-- scale.md -->$/ { inside = 1; print ""; while ((getline line < text) > 0) print line }' "$page" >"$page.new"
    mv "$page.new" "$page"
    exit 0
fi
medrl=${1:-}
[ $# -gt 0 ] && shift
for guess in "$top/build/medrl" "$top/.gpu/medrl"; do [ -z "$medrl" ] && [ -x "$guess" ] && medrl=$guess; done
[ -x "$medrl" ] || { echo "scale.sh: no program; build it (./bootstrap cuda), or name it: tests/bench/scale.sh OUT MEDRL"; exit 1; }
MEDRL_HOME=${MEDRL_HOME:-$top}
export MEDRL_HOME
exec "$medrl" bench --scale "$out" "$@"
