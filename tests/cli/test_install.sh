#!/bin/sh
# test_install.sh - cmake --install into an empty prefix: the program runs from there, in an empty folder, with nothing of
# the clone; completions, manual page and pages are there; the .deb holds the same. medrl --help is fast.
. "$(dirname "$0")/lib.sh"
build=$(dirname "$medrl")
[ -f "$build/cmake_install.cmake" ] || { echo "test_install.sh: skipped, $build is no build folder"; exit 0; }
[ -f "$build/generated/medrl.1" ] || { echo "test_install.sh: skipped, the manual page is not built (all of $build is)"; exit 0; }
cd "$temp" || exit 1
# what ./bootstrap builds can be installed: the manual page and the completions are targets of their own
is "$(grep -- '--target medrl ' "$here/../../bootstrap" | grep -vc medrl_generated)" 0

cmake --install "$build" --prefix "$temp/usr" >install.log 2>&1 || { cat install.log; fail "cmake --install"; }
for file in bin/medrl share/medrl/lua/medrl/worker.lua share/medrl/lua/recipes/medical_mix.lua share/medrl/docs/rewards.md \
    share/medrl/examples/nano/config.json share/man/man1/medrl.1 share/bash-completion/completions/medrl \
    share/zsh/vendor-completions/_medrl share/fish/vendor_completions.d/medrl.fish share/doc/medrl/copyright; do
    checks=$((checks + 1))
    [ -s "usr/$file" ] || fail "$file is not installed"
done
unset MEDRL_HOME
medrl=$temp/usr/bin/medrl
mkdir work
cd work || exit 1
run 0 version --json
prints "\"home\": \"$temp/usr/share/medrl\""
run 0 demo --set grpo.max_steps=3 --threads 2
prints "talk to it: medrl chat"
is "$(ls -A | wc -l)" 0 # nothing is left in the folder it was called in
run 0 run recipes/smoke.lua --threads 2 --device cpu
run 0 report outputs-smoke
run 0 help rewards
prints "# Rewards"
run 0 help plan --page
prints "## A budget"
run 0 help plan
prints "usage: medrl plan"
run 2 help rewrds
says 'did you mean "rewards"?'
cd ..

# completions, as bash offers them
cat >offer.bash <<'END'
. usr/share/bash-completion/completions/medrl
offer() { COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMPREPLY=(); _medrl; echo "${COMPREPLY[*]}"; }
offer medrl re
offer medrl run --on
offer medrl run --device c
offer medrl completion f
offer medrl eval --no-
offer medrl export outputs --to g
offer medrl help re
offer medrl new d
END
is "$(bash offer.bash 2>&1 | tr '\n' '|')" \
    "resume report repl|--on-error|cpu cuda:0|fish|--no-base --no-save|gguf|resume report repl recipe reliability rewards|dataset|"
# as fish and zsh do, where they are installed
if command -v fish >fish-is; then
    for line in "re" "run --on" "run --device c" "completion f" "eval --no-" "export outputs --to g" "help re" "new d" "new reward usr/b"; do
        HOME=$temp fish -N -c "source usr/share/fish/vendor_completions.d/medrl.fish; complete -C 'medrl $line'" | cut -f1 | sort | tr '\n' ' '
        echo
    done >fish-offers
    is "$(tr '\n' '|' <fish-offers)" "repl report resume |--on-error |cpu cuda:0 |fish |--no-base --no-save |gguf |recipe reliability repl report resume rewards |\
dataset |usr/bin/ |"
else
    echo "test_install.sh: no fish, its completions are not read"
fi
if command -v zsh >zsh-is; then
    zsh -n usr/share/zsh/vendor-completions/_medrl || fail "zsh does not read its completions"
    HOME=$temp timeout 60 zsh -f "$here/offers.zsh" "$PWD/usr/share/zsh/vendor-completions" "medrl re" "medrl run --device=c" "medrl eval --no-" \
        "medrl export --to=" "medrl help re" "medrl new " >zsh-offers || fail "zsh offers nothing in a minute"
    is "$(tr -s ' \n' ' ' <zsh-offers)" "repl report resume cpu cuda:0 --no-base --no-save adapter gguf merged recipe reliability repl report resume rewards \
dataset recipe reward template "
else
    echo "test_install.sh: no zsh, its completions are not read"
fi
# every word that is offered as a value stands in the help of its option
sed -n "s/^complete -c medrl .*_from \([a-z]*\)' -l \([a-z-]*\) .*-x -a '\([^']*\)'.*/\1 \2 \3/p" usr/share/fish/vendor_completions.d/medrl.fish >values
while read -r command option words; do
    "$medrl" "$command" --help >out
    for word in $words; do
        checks=$((checks + 1))
        grep -e "--$option " out | grep -qF -e "${word%[0-9]}" || fail "medrl $command --$option: its help knows no $word"
    done
done <values
[ "$(wc -l <values)" -gt 20 ] || fail "only $(wc -l <values) options with words"
for command in $(run 0 completion fish && sed -n 's/.*-f -a \([a-z]*\) .*/\1/p' out); do
    checks=$((checks + 1))
    grep -q "^        $command) _arguments" usr/share/zsh/vendor-completions/_medrl || fail "zsh knows nothing of $command"
    grep -q "^.SS medrl $command" usr/share/man/man1/medrl.1 || fail "the manual page knows nothing of $command"
done
run 2 completion csh
says "want bash, zsh or fish"
if command -v man >man-is; then
    man --warnings -l usr/share/man/man1/medrl.1 >man.txt 2>man.err
    is "$(cat man.err)" ""
    grep -q "EXIT STATUS" man.txt || fail "man shows no exit status"
fi

# --help of a release build: at most 10 ms, the fastest of 20 calls (others may use the machine)
case $(sed -n 's/^CMAKE_BUILD_TYPE:[A-Z]*=//p' "$build/CMakeCache.txt") in
Release)
    best=1000000000
    for _ in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do
        start=$(date +%s%N)
        "$medrl" --help >out
        took=$(($(date +%s%N) - start))
        [ $took -lt $best ] && best=$took
    done
    checks=$((checks + 1))
    [ $best -lt 10000000 ] || fail "medrl --help takes $((best / 1000)) us"
    echo "medrl --help: $((best / 1000)) us with two calls of date"
    ;;
esac

# the package: the same files below /usr, with what it depends on
if command -v dpkg-deb >deb-is && command -v cpack >>deb-is; then
    (cd "$temp" && cpack --config "$build/CPackConfig.cmake" -B "$temp/package" >cpack.log 2>&1) || { cat cpack.log; fail "cpack"; }
    deb=$(ls package/*.deb)
    dpkg-deb -c "$deb" | awk '{ print $6 }' | sed -n 's,^\./usr/\(.*[^/]\)$,\1,p' | sort >packed
    (cd usr && find . -type f | sed 's,^\./,,' | sort) >installed
    cmp packed installed || fail "the package holds other files: $(diff packed installed | head -3)"
    dpkg-deb -f "$deb" Depends | grep -q libluajit || fail "the package depends on no LuaJIT"
    is "$(dpkg-deb -f "$deb" Package)" medrl
    # every library that is opened by name has its package among the recommended ones (CUDA's come with the driver)
    for library in $(strings "$medrl" | grep -E '^lib[a-z-]+\.so\.[0-9]+$' | grep -v -e libcuda -e libcublas -e libnccl -e gnutls | grep -vxF \
        "$(objdump -p "$medrl" | sed -n 's/^ *NEEDED *//p')"); do
        checks=$((checks + 1))
        package=$(dpkg -S "$library" 2>/dev/null | sed -n '1s/:.*//p')
        dpkg-deb -f "$deb" Recommends | grep -q "${package:-$library}" || fail "the package recommends no $package, which $library is opened from"
    done
fi
passed
