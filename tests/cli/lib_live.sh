# lib_live.sh - sourced after lib.sh by the tests of runs whose files are saved while they train: waiting for a run, cutting a
# copy of it to what a kill leaves, comparing two. The runs are those of recipes/live.lua in the working folder, of $steps steps
# with 8 completions each.
# shellcheck shell=sh disable=SC2154
# --- waiting
alive() { kill -0 "$pid" 2>/dev/null || fail "the run ended early"; }
wait_step() { # N: metrics.jsonl of $folder has N lines
    waited=0
    while [ "$(wc -l 2>/dev/null <"$folder/metrics.jsonl" || echo 0)" -lt "$1" ]; do
        alive
        sleep 0.02
        waited=$((waited + 1))
        [ $waited -lt 6000 ] || fail "step $1 did not come"
    done
}
wait_event() { # TEXT
    waited=0
    while ! grep -qsF -- "$1" "$folder/events.jsonl"; do
        alive
        sleep 0.02
        waited=$((waited + 1))
        [ $waited -lt 3000 ] || fail "no event: $1"
    done
    checks=$((checks + 1))
}
start() { # FOLDER [MORE...]
    folder=$1
    shift
    "$medrl" run recipes/live.lua -o "$folder" --threads 1 "$@" >"$temp/out" 2>"$temp/err" </dev/null &
    pid=$!
}
finish() { # CODE
    code=0
    wait $pid || code=$?
    is "$code" "$1"
}
has() { checks=$((checks + 1)); grep -qF -- "$2" "$1" || fail "$1 lacks: $2"; }
lacks() { checks=$((checks + 1)); ! grep -qF -- "$2" "$1" || fail "$1 has: $2"; }
hash_of() {
    run 0 hash "$1"
    hash=$(cat "$temp/out")
}
same_bits() { # A B: every bit of the result, every metric but the clock
    hash_of "$1"
    want=$hash
    hash_of "$2"
    is "$hash" "$want"
    without_clock "$1" >a.metrics
    without_clock "$2" >b.metrics
    cmp a.metrics b.metrics >&2 || fail "the metrics of $1 and $2 differ"
    checks=$((checks + 1))
}
same_run() { # A B: the settings and reloads of the record too
    same_bits "$1" "$2"
    for f in "$1" "$2"; do
        grep -E '"kind": "(reload|set)"' "$f/events.jsonl" | sed 's/"time": [0-9.]*, //' >"$(basename "$f").changes"
    done
    cmp "$(basename "$1").changes" "$(basename "$2").changes" >&2 || fail "the changes of $1 and $2 differ"
    checks=$((checks + 1))
}

# --- the run "whole", ended at any place after a checkpoint: what a kill leaves is a prefix of its append-only files
crash() { # NAME CHECKPOINT METRICS_LINES EVENTS_LINES: a copy as it was then
    rm -rf "$1"
    cp -r whole "$1"
    rm -rf "$1/adapter"
    for c in "$1"/checkpoint-*; do
        [ "${c##*-}" -le "$2" ] || rm -rf "$c"
    done
    head -n "$3" whole/metrics.jsonl >"$1/metrics.jsonl"
    head -n $(($3 * 8)) whole/samples.jsonl >"$1/samples.jsonl"
    head -n "$4" whole/events.jsonl >"$1/events.jsonl"
    printf '{"step": 9' >>"$1/metrics.jsonl" # and half a line
}
line_of() { grep -nF -- "$1" whole/events.jsonl | head -1 | cut -d: -f1; }
step_of() { sed -n "$1p" whole/events.jsonl | grep -oE '"step": [0-9]+' | grep -oE '[0-9]+'; }
