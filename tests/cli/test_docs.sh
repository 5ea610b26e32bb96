#!/bin/sh
# test_docs.sh MEDRL - what is generated is current: docs/recipes.md is what `medrl help recipe` prints.
set -eu
medrl=$1
root=$(cd "$(dirname "$0")/../.." && pwd)
if ! "$medrl" help recipe | diff -u "$root/docs/recipes.md" -; then
    echo "docs/recipes.md is not what the settings table says; write it anew: build/medrl help recipe > docs/recipes.md"
    exit 1
fi
# every function that scripts can call stands in the annotations and in docs/rewards.md or docs/recipes.md
for lib in text re json rng log; do
    case $lib in rng | log) source=lib_host.c ;; json) source=convert.c ;; *) source=lib_$lib.c ;; esac
    names=$(sed -n "/^int mr_lib_$lib(/,/^}/p" "$root/runtime/script/$source" |
        grep -o '{ "[a-z_0-9]*",\|lua_setfield(L, -2, "[a-z][a-z_0-9]*")' | sed 's/[^"]*"//; s/".*//')
    [ -n "$names" ] || { echo "no functions were found in mr_lib_$lib"; exit 1; }
    for name in $names; do
        grep -q "@field $name " "$root/lua/medrl/medrl.d.lua" || { echo "lua/medrl/medrl.d.lua lacks medrl.$lib's $name"; exit 1; }
        grep -q "[\`.:]$name\b" "$root/docs/rewards.md" || { echo "docs/rewards.md lacks medrl.$lib's $name"; exit 1; }
    done
done
for file in answer chat data; do
    case $file in data) page=recipes ;; *) page=rewards ;; esac
    for name in $(sed -n 's/^function \(M\.\|Set:\)\([a-z_]*\)(.*/\2/p' "$root/lua/medrl/$file.lua"); do
        case $file.$name in data.open | data.describe | data.is_set) continue ;; esac # the program's own
        grep -q "@field $name " "$root/lua/medrl/medrl.d.lua" || { echo "lua/medrl/medrl.d.lua lacks medrl.$file's $name"; exit 1; }
        grep -q "[\`.:]$name\b" "$root/docs/$page.md" || { echo "docs/$page.md lacks medrl.$file's $name"; exit 1; }
    done
done
# every reward that comes with medrl, with each of its options
for file in "$root"/lua/rewards/*.lua; do
    name=$(basename "$file" .lua)
    line=$(grep "^| \`$name\` |" "$root/docs/rewards.md" || true)
    [ -n "$line" ] || { echo "docs/rewards.md lacks the reward $name"; exit 1; }
    for option in $(tr '\n' ' ' <"$file" | sed 's/M.cases = .*//' | grep -o ' options = {[^}]*}' | sed 's/ options = {//' |
        grep -o '[a-z_]* = ' | sed 's/ = //'); do
        printf '%s' "$line" | grep -q "\`$option\`" || { echo "docs/rewards.md lacks option $option of $name"; exit 1; }
    done
done
echo "docs: current"
