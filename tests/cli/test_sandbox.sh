#!/bin/sh
# test_sandbox.sh - the level of the sandbox as people and programs see it: doctor, a run's config.json, --require-sandbox; and that a worker which is
# alive during a run is locked in as doctor says.
. "$(dirname "$0")/lib.sh"
tiny_model tiny_smollm2
cd "$temp" || exit 1

number() { sed -n "s/.*\"$2\":[^0-9]*\([0-9]*\).*/\1/p" "$1" | head -n 1; } # FILE KEY

"$medrl" doctor --json >doctor.json 2>/dev/null || : # the model may be missing here
level=$(sed -n 's/.*"sandbox": {[^}]*"level": \([123]\).*/\1/p' doctor.json)
checks=$((checks + 1))
[ -n "$level" ] || fail "doctor --json tells no level: $(cat doctor.json)"

smoke() {
    run 0 run recipes/smoke.lua -o "$1" --threads 1 --set model.name="$temp/tiny" --set model.max_seq_length=256 --set grpo.max_prompt_length=200 \
        --set grpo.max_steps=1 --require-sandbox="$level"
}
smoke run1
is "$(number run1/config.json sandbox)" "$level"
warned=$(grep -c 'sandbox: level' err || :)
if [ "$level" = 1 ]; then is "$warned" 1; else is "$warned" 0; fi

# more than there is: only where less than 3 can be had
if [ "$level" -lt 3 ]; then
    run 77 data recipes/smoke.lua --set model.name="$temp/tiny" --require-sandbox=3
    says "sandbox: level $level is reached here, 3 is required; missing: "
    run 77 run recipes/smoke.lua -o never --set model.name="$temp/tiny" --require-sandbox=3
    [ ! -e never ] || fail "a folder was made"
fi
run 2 run recipes/smoke.lua --require-sandbox=4
run 2 resume run1 --require-sandbox=x

# a worker in mid-run: seccomp's mode in /proc is 2 (a filter)
cat >slow.lua <<'LUA'
return { score = function() while true do end end }
LUA
mkdir -p rewards && mv slow.lua rewards/slow.lua
"$medrl" run recipes/smoke.lua -o mid --threads 1 --set model.name="$temp/tiny" --set model.max_seq_length=256 --set grpo.max_prompt_length=200 \
    --set grpo.max_steps=1 --set 'rewards=["slow"]' >mid.out 2>&1 &
pid=$!
child=
for _ in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do
    child=$(cut -d ' ' -f 1 "/proc/$pid/task/$pid/children" 2>/dev/null || :)
    [ -n "$child" ] && mode=$(sed -n 's/^Seccomp:[^0-9]*//p' "/proc/$child/status" 2>/dev/null) && [ "$mode" = 2 ] && break
    sleep 0.1
done
kill -9 $pid 2>/dev/null || :
wait $pid 2>/dev/null || :
if [ "$level" -ge 2 ]; then is "$mode" 2; fi
passed
