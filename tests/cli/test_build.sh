#!/bin/sh
# test_build.sh - how the program was built: hardened, from what its list says, and the same bytes each time.
#
#     test_build.sh MEDRL
# Source: reliability.md P19.
. "$(dirname "$0")/lib.sh"
command -v readelf >/dev/null 2>&1 || fail "no readelf: binutils come with the compiler"

# --- hardening
readelf -hW "$medrl" >"$temp/elf"
grep -q 'Type: *DYN' "$temp/elf" || fail "no position-independent executable"
readelf -lW "$medrl" >"$temp/segments"
grep -q GNU_RELRO "$temp/segments" || fail "no RELRO segment"
grep 'GNU_STACK' "$temp/segments" | grep -q 'RW ' || fail "no stack segment that is not executable"
if grep -E 'LOAD.* RWE ' "$temp/segments" >/dev/null; then fail "a segment is writable and executable"; fi
readelf -dW "$medrl" >"$temp/dynamic"
grep -q 'BIND_NOW\|FLAGS.*NOW' "$temp/dynamic" || fail "symbols are bound lazily, want -z now"
if grep -q 'RPATH\|RUNPATH' "$temp/dynamic"; then fail "the program looks for libraries in a folder of the machine it was built on"; fi
readelf -sW "$medrl" >"$temp/symbols"
grep -q '__stack_chk_fail' "$temp/symbols" || fail "no stack protector"
grep -qE '__(mem|str|v?sn?|v?f?)[a-z]*_chk' "$temp/symbols" || fail "no checked libc calls (_FORTIFY_SOURCE)"
case $(uname -m) in
x86_64) readelf -nW "$medrl" | grep -q 'IBT.*SHSTK' || echo "the compiler, or a library of the C runtime, is without CET: not marked" ;;
esac
checks=$((checks + 8))

# --- the list
run 0 version --json
for name in glibc luajit cjson pcre2 utf8proc libmd libedit libcurl zlib libzstd; do
    grep -qE "\"name\": ?\"$name\", ?\"version\": ?\"[0-9]+\.[0-9]" "$temp/out" || fail "version --json: no version of $name"
done
prints '"compiler"'
if grep -q '"carquet"' "$temp/out"; then # with Parquet: what cmake/vendored.txt says
    read -r _ version _ _ license <<EOF
$(grep '^carquet ' "$here/../../cmake/vendored.txt")
EOF
    prints "\"vendored\": [{\"name\": \"carquet\", \"version\": \"$version\", \"license\": \"$license\"}]"
else
    prints '"vendored": []'
fi
prints '"checkpoint_format": 1'
linked=$(grep -o 'Shared library: \[[^]]*' "$temp/dynamic" | sed 's/.*\[//')
for lib in $linked; do
    case $lib in
    libc.so* | libm.so* | libdl.so* | libpthread.so* | ld-linux* | libluajit-5.1.so* | libcjson.so* | libpcre2-8.so* | libutf8proc.so* | libmd.so* | libz.so* | libzstd.so*) ;;
    liblz4.so*) grep -q '"carquet"' "$temp/out" || fail "it is linked with $lib, and not for Parquet" ;;
    *) fail "it is linked with $lib, which version --json does not list" ;;
    esac
done
checks=$((checks + 7))

# --- a part of it built again elsewhere, twice: the same bytes
if command -v cmake >/dev/null 2>&1 && command -v ninja >/dev/null 2>&1; then
    for i in 1 2; do
        cmake -S "$MEDRL_HOME" -B "$temp/build$i" -G Ninja -DCMAKE_BUILD_TYPE=Release -DMEDRL_TESTS=OFF -DMEDRL_CUDA=OFF >"$temp/out" 2>&1 &&
            cmake --build "$temp/build$i" --target medrl_base medrl_files >"$temp/out" 2>&1 || fail "it cannot be built again"
    done
    for lib in base files; do
        cmp "$temp/build1/libmedrl_$lib.a" "$temp/build2/libmedrl_$lib.a" || fail "two builds of medrl_$lib differ"
    done
    if strings -a "$temp/build1/libmedrl_files.a" | grep -qF "$temp/build1"; then fail "the folder of the build is in it"; fi
    checks=$((checks + 3))
fi
passed
