#!/bin/sh
# test_scale.sh - `medrl bench --scale`: every axis has its table, its picture and its figures; and the cache of quantized weights as commands
# see it: written once, read, switched off, and no hindrance where the disk is full (MEDRL_FAULTY: the program whose system calls fail).
. "$(dirname "$0")/lib.sh"
cd "$temp" || exit 1

run 2 bench some-model --scale out
says "--scale together"
run 74 bench --scale /proc/nowhere --device cpu
run 0 bench --scale grown --device cpu --quick --rank 8 --json
prints '"axis": "batch"'
for axis in batch context rank model memory; do
    [ "$(grep -o "\"axis\": \"$axis\"" "$temp/out" | wc -l)" -ge 1 ] || fail "no figures for $axis"
    head -c 5 "grown/scale-$axis.svg" | grep -q "<svg " && tail -n 1 "grown/scale-$axis.svg" | grep -q "^</svg>$" || fail "scale-$axis.svg is no picture"
    grep -q "<circle" "grown/scale-$axis.svg" || fail "scale-$axis.svg has no point"
    grep -q "nan\|inf" "grown/scale-$axis.svg" && fail "scale-$axis.svg has a number that is none"
done
is "$(grep -c '^| ms (share' grown/scale.md)" 4
is "$(grep -c "^| GB " grown/scale.md)" 3

# the cache
tiny_model tiny_qwen2
generate() { run 0 generate "$temp/tiny" --raw --store nf4 --device cpu --temperature 0 --max-new-tokens 8 -v "abc"; }
MEDRL_WEIGHT_CACHE=$temp/kept
export MEDRL_WEIGHT_CACHE
generate
says ": written, "
cp "$temp/out" first
ls kept >names
is "$(wc -l <names)" 1
generate
says ": read and checked, "
cmp -s "$temp/out" first || fail "another text with weights from the cache"
printf 'x' | dd of="kept/$(cat names)" bs=1 seek=300 conv=notrunc 2>/dev/null
generate
says "has damaged weights; it is made again"
cmp -s "$temp/out" first || fail "another text after damage"
rm -r kept
MEDRL_WEIGHT_CACHE=off
generate
[ -e kept ] && fail "off, and it was written"
MEDRL_WEIGHT_CACHE=$temp/kept
if [ -x "$(dirname "$medrl")/medrl_faulty" ]; then
    own=$medrl medrl=$(dirname "$medrl")/medrl_faulty
    for fault in write:1:ENOSPC write:3+:EIO fsync:1:EIO rename:1:EROFS open:2:EMFILE mkdir:1:EROFS; do
        MEDRL_FAULT=$fault MEDRL_FAULT_BELOW=$temp/kept
        export MEDRL_FAULT MEDRL_FAULT_BELOW
        rm -rf kept
        generate
        says "cannot be written"
        cmp -s "$temp/out" first || fail "another text with $fault"
        [ -z "$(ls kept 2>/dev/null)" ] || fail "$fault left $(ls kept)"
    done
    unset MEDRL_FAULT MEDRL_FAULT_BELOW
    medrl=$own
fi
passed
