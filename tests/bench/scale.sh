#!/bin/sh
# scale.sh - how times and memory grow with batch, context, rank and model: the tables and pictures of docs/performance.md, in one run.
#
#   tests/bench/scale.sh OUT [MEDRL [ARGS ...]]     MEDRL: the program (build/medrl, else .gpu/medrl); ARGS: of `medrl bench`, as --quick
#
# On the GPU (MEDRL_CUDA_MODULE, or the module beside MEDRL) about three minutes. Into OUT: scale.json, scale.md, scale-AXIS.svg. Beside the
# document they go with: cp OUT/scale-*.svg docs/img/, and the tables of scale.md into docs/performance.md, "How it scales".
set -u
top=$(cd "$(dirname "$0")/../.." && pwd)
out=${1:?usage: tests/bench/scale.sh OUT [MEDRL [ARGS ...]]}
shift
medrl=${1:-}
[ $# -gt 0 ] && shift
for guess in "$top/build/medrl" "$top/.gpu/medrl"; do [ -z "$medrl" ] && [ -x "$guess" ] && medrl=$guess; done
[ -x "$medrl" ] || { echo "scale.sh: no program; build it (./bootstrap cuda), or name it: tests/bench/scale.sh OUT MEDRL"; exit 1; }
MEDRL_HOME=${MEDRL_HOME:-$top}
export MEDRL_HOME
exec "$medrl" bench --scale "$out" "$@"
