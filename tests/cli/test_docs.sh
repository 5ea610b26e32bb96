#!/bin/sh
# test_docs.sh MEDRL - what is generated is current: docs/recipes.md is what `medrl help recipe` prints.
set -eu
medrl=$1
root=$(cd "$(dirname "$0")/../.." && pwd)
if ! "$medrl" help recipe | diff -u "$root/docs/recipes.md" -; then
    echo "docs/recipes.md is not what the settings table says; write it anew: build/medrl help recipe > docs/recipes.md"
    exit 1
fi
echo "docs: current"
