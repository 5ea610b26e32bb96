#!/bin/sh
# test_memory.sh - the Nth request for memory of a run of one step fails, for every N of a list: the run ends with exit code 71 and one line,
# or goes on to the bits of the run that had it all; it never crashes. Once (a large request that may be tried smaller), and from then on.
# And the peak that `medrl plan` says is that of the process.
#
#     test_memory.sh MEDRL_FAULTY [all]     all: every N (minutes); else the first 120, then every 1.1th
# Source: reliability.md P12; the loop is SQLite's ("How SQLite Is Tested").
. "$(dirname "$0")/../cli/lib.sh"
. "$(dirname "$0")/lib_faults.sh"
all=${2-}
short_run 1
run 0 run short.lua -o whole -q
whole_hash=$(hash_of whole)
points=0 refused=0 unharmed=0

# try FAULT: false when the run was over before it
try() {
    rm -rf "$dir/cut" "$dir/log"
    code=0
    MEDRL_FAULT=$1 MEDRL_FAULT_LOG=$dir/log "$medrl" run short.lua -o "$dir/cut" -q >"$dir/out" 2>"$dir/err" </dev/null || code=$?
    [ -s "$dir/log" ] || return 1
    points=$((points + 1))
    case $code in
    0)
        unharmed=$((unharmed + 1))
        [ "$(hash_of "$dir/cut")" = "$whole_hash" ] || fail_here "$1: exit code 0, but another hash"
        ;;
    71)
        refused=$((refused + 1))
        [ "$(grep -c '^medrl: ' "$dir/err")" = 1 ] || fail_here "$1: want one line that begins with \"medrl: \""
        ;;
    *) fail_here "$1: exit code $code, want 0 or 71" ;;
    esac
}
fail_here() {
    cp "$dir/err" "$temp/err"
    fail "$@"
}
# lane OP FIRST BY: N = FIRST, FIRST + 1, ... dense, then growing
lane() {
    dir=$temp/$1$2
    mkdir -p "$dir"
    n=$2
    while try "$1:$n:ENOMEM"; do
        if [ $((n % 7)) = 0 ]; then try "$1:$n+:ENOMEM"; fi
        if [ -n "$all" ] || [ $n -lt 120 ]; then n=$((n + $3)); else n=$((n + n / 10)); fi
    done
    [ $points -gt 3 ] || fail "$1: only $points requests met a fault"
    echo "$1 from $2: $points failures of memory up to number $n, $refused ended with 71, $unharmed made no difference"
}
pids=
for from in 1 2; do
    (lane malloc $from 2) &
    pids="$pids $!"
done
for pid in $pids; do wait "$pid" || exit 1; done
(lane mmap 1 1) || exit 1

# --- a plan of 240 MB, and one of 25, the difference of which is that of two processes' peaks (both have the program, its workers' texts, its
# threads' stacks too): blocks are made of memory at once, since what a short run does not touch it does not have
size=512
mkdir model
cp "$MEDRL_HOME"/examples/nano/token* model/
sed "s/\"hidden_size\": 128/\"hidden_size\": $size/; s/\"intermediate_size\": 352/\"intermediate_size\": $((size * 8 / 3 / 64 * 64))/
    s/\"num_hidden_layers\": 4/\"num_hidden_layers\": 8/; s/\"num_attention_heads\": 4/\"num_attention_heads\": $((size / 64))/
    s/\"num_key_value_heads\": 2/\"num_key_value_heads\": $((size / 128))/; s/\"head_dim\": 32/\"head_dim\": 64/" \
    "$MEDRL_HOME/examples/nano/config.json" >model/config.json
sed 's/prompts_per_step = 2, num_generations = 4/prompts_per_step = 8, num_generations = 8/; s/max_completion_length = 16/max_completion_length = 32/' \
    short.lua >little.lua
sed 's#name = "examples/nano", max_seq_length = 128, load_in_4bit = false#name = "model", max_seq_length = 128, from_config = true#' little.lua >large.lua
planned() { "$medrl" plan "$1" --json | grep -oE '"total": [0-9]+' | grep -oE '[0-9]+'; }
peak() { # in MB
    MEDRL_FAULT_POPULATE=1 "$medrl" run "$1" -o "$temp/peak-$1" -q --set grpo.max_steps=1 >"$temp/out" 2>"$temp/err" </dev/null || fail "$1: exit code $?"
    grep -oE 'at most [0-9]+ MB' "$temp/out" | grep -oE '[0-9]+'
}
set -- "$(planned little.lua)" "$(planned large.lua)" "$(peak little.lua)" "$(peak large.lua)"
awk -v a="$1" -v b="$2" -v p="$3" -v q="$4" 'BEGIN { d = (q - p) * 1e6 - (b - a); exit !(b > 2e8 && d < 0.03 * b && d > -0.03 * b) }' ||
    fail "planned $1 and $2 bytes, peaks of $3 and $4 MB"
off=$(awk -v a="$1" -v b="$2" -v p="$3" -v q="$4" 'BEGIN { d = ((q - p) * 1e6 - (b - a)) * 100 / b; printf "%.1f", d < 0 ? -d : d }')
echo "planned $2 bytes, the process took $off % more or less"
echo "score: plan_off_percent $off 3"
checks=$((checks + 4))
passed
