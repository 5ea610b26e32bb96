#!/bin/sh
# test_world.sh - the world around a run: another run in its folder, folders that cannot be written, no home, outputs that are full, no
# network (and no wish for one), checkpoints of another version. Clocks and locales are test_same.sh's.
#
#     test_world.sh MEDRL_FAULTY
# Source: reliability.md P18, P19.
. "$(dirname "$0")/../cli/lib.sh"
. "$(dirname "$0")/lib_faults.sh"
short_run 20
run 0 run short.lua -o whole -q
whole_hash=$(hash_of whole)
one_line() { [ "$(grep -c '^medrl: ' err)" = 1 ] || fail "$1: want one line that begins with \"medrl: \""; }

# --- two in one folder: the second says who is there, and nothing that the first has changes
sed 's/max_steps = 20/max_steps = 2000/' short.lua >long.lua
"$medrl" run long.lua -o busy -q >out1 2>err1 </dev/null &
pid=$!
for _ in $(seq 200); do ls -d busy/checkpoint-* >/dev/null 2>&1 && break; sleep 0.05; done
ls -d busy/checkpoint-* >/dev/null 2>&1 || fail "no checkpoint came in 10 s"
run 75 resume busy
says "process $pid"
rm busy/lock # somebody who has read that a lock file is in the way
run 75 resume busy
says "its folder is in use by another process, whose lock file was removed"
"$medrl" run long.lua --set grpo.max_steps=1 -o busy -q >out 2>err </dev/null || fail "a new run beside it: exit code $?"
[ -d busy-2 ] || fail "a new run did not take the next name"
kill -TERM $pid
code=0
wait $pid || code=$?
is $code 143
check_checkpoints busy "two in one folder"
run 0 hash busy
checks=$((checks + 3))

# --- a folder that nothing can be written to
for fault in mkdir:1+:EROFS open:1+:EROFS; do
    code=0
    MEDRL_FAULT=$fault MEDRL_FAULT_BELOW=/cut "$medrl" run short.lua -o "$temp/cut" -q >out 2>err </dev/null || code=$?
    is $code 74
    one_line "$fault"
    grep -q 'Read-only file system' err || fail "$fault: the line does not say why"
    rm -rf cut
done

# --- no home, or one that is not there; an output that is full or closed
for home in '' /nonexistent relative; do
    (HOME=$home XDG_CACHE_HOME=$home "$medrl" run short.lua -o cut -q >out 2>err </dev/null) || fail "HOME=$home: exit code $?"
    is "$(hash_of cut)" "$whole_hash"
    rm -rf cut
done
if [ -w /dev/full ]; then
    for command in "version --json" "hash whole" "help recipe"; do
        code=0
        # shellcheck disable=SC2086
        "$medrl" $command >/dev/full 2>err </dev/null || code=$?
        is $code 74
        one_line "$command > /dev/full"
    done
    code=0
    "$medrl" run short.lua -o cut >/dev/full 2>err </dev/null || code=$?
    is $code 74
    is "$(hash_of cut)" "$whole_hash"
    rm -rf cut
    code=0
    "$medrl" run short.lua -o cut >out 2>/dev/full </dev/null || code=$?
    is $code 0
    is "$(hash_of cut)" "$whole_hash"
    rm -rf cut
fi

# --- no network is asked for, and none is needed
if command -v strace >/dev/null 2>&1 && strace -o trace true 2>/dev/null; then
    strace -f -e trace=socket,connect -o trace "$medrl" run short.lua -o cut -q >out 2>err </dev/null || fail "under strace: exit code $?"
    grep -q 'AF_UNIX\|exited' trace || fail "strace saw nothing"
    if grep -E 'AF_INET|AF_INET6|AF_NETLINK|AF_PACKET' trace >err; then fail "a run asks for the network"; fi
    is "$(hash_of cut)" "$whole_hash"
    rm -rf cut
else
    echo "no strace that works: sockets of the network are not looked for"
fi
if unshare -n true 2>/dev/null; then
    unshare -n "$medrl" run short.lua -o cut -q >out 2>err </dev/null || fail "without a network: exit code $?"
    is "$(hash_of cut)" "$whole_hash"
    rm -rf cut
else
    echo "no network namespace could be had: a run without a network is not tried"
fi

# --- a newer checkpoint is refused by name; one that this version's format stored is read
cp -r whole newer
for at in newer/checkpoint-*; do
    sed -i 's/"format": 1/"format": 2/' "$at/trainer_state.json"
    (cd "$at" && sha256sum ./*.json ./*.safetensors | sed 's#  \./#  #' >MANIFEST)
done
run 65 resume newer
says "is of checkpoint format 2, this medrl reads up to 1"
cp -r "$golden/run_format1" old
chmod -R u+w old
read -r stored _ <old/HASH
is "$(hash_of old)" "$stored"
run 0 resume old -q
[ -d old/checkpoint-4 ] || fail "a stored run did not go on"
passed
