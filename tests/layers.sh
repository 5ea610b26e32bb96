#!/bin/sh
# layers.sh - the layer picture of CONTRIBUTING.md as a table, checked: which folder may include which. Fails on any other
# `#include "..."`, on Lua headers outside runtime/script and the REPL, and on CUDA headers outside kernels/cuda.
cd "$(dirname "$0")/.." || exit 1
bad=0

# folder: folders whose headers it may include (its own is always allowed)
rule() {
    dir=$1; shift
    [ -d "$dir" ] || return 0
    own=$(basename "$dir")
    for file in $(find "$dir" -name '*.c' -o -name '*.h' -o -name '*.cu' -o -name '*.cuh'); do
        grep -n '^[[:space:]]*#[[:space:]]*include[[:space:]]*"' "$file" | while IFS= read -r line; do
            number=${line%%:*}
            path=$(printf '%s' "$line" | sed 's/.*"\(.*\)".*/\1/')
            from=$(dirname "$path")
            ok=0
            [ "$from" = "$own" ] && ok=1
            [ "$from" = "." ] && [ -f "$dir/$path" ] && ok=1
            [ -f "kernels/$path" ] && [ "$from" = "." ] && from=kernels
            for allowed in "$@"; do [ "$from" = "$allowed" ] && ok=1; done
            [ $ok = 1 ] || echo "$file:$number: $dir may not include \"$path\"; it may use: $*"
        done
    done
}

out=$(
    rule runtime/base
    rule kernels/cpu base kernels
    rule kernels/cuda base kernels
    rule runtime/files base
    rule runtime/hub base
    rule runtime/text base files
    rule runtime/model base files hub text kernels
    rule runtime/rl base files text kernels model
    rule runtime/record base files text model rl
    rule runtime/script base files hub text rl
    rule runtime/cli base files hub text kernels model rl record script
    grep -rnE '#[[:space:]]*include[[:space:]]*<(lua|luajit|lauxlib|lualib)[^>]*>' runtime kernels | grep -v '^runtime/script/' |
        sed 's/$/   <- Lua is used behind runtime\/script only/'
    grep -rnE '#[[:space:]]*include[[:space:]]*<(cuda|cublas|curand|nccl)[^>]*>' runtime kernels | grep -v '^kernels/cuda/' |
        sed 's/$/   <- CUDA is used below kernels\/cuda only/'
    grep -rnE '#[[:space:]]*include[[:space:]]*<curl/' runtime kernels | grep -v '^runtime/hub/' |
        sed 's/$/   <- the network is used behind runtime\/hub only/'
    grep -rnE '#[[:space:]]*include[[:space:]]*<(carquet/|zlib|zstd|lz4)' runtime kernels | grep -vE '^runtime/files/(parquet|unpack)\.c:' |
        sed 's/$/   <- packed bytes are taken apart in runtime\/files\/parquet.c and unpack.c only, which run behind runtime\/script\/import.h/'
    true
)
if [ -n "$out" ]; then
    printf '%s\n' "$out"
    bad=1
fi
[ $bad = 0 ] && echo "layers: every include points down"
exit $bad
