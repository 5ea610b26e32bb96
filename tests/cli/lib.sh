# lib.sh - sourced by the tests of this folder: checks that say what came and what was wanted, and end the test.
# shellcheck shell=sh
medrl=$1
[ -x "$medrl" ] || { echo "usage: $0 MEDRL" >&2; exit 1; }
case $medrl in /*) ;; *) medrl=$PWD/$medrl ;; esac
here=$(cd "$(dirname "$0")" && pwd)
golden=$here/../golden
temp=$(mktemp -d)
trap 'rm -rf "$temp"' EXIT
XDG_CACHE_HOME=$temp/cache
MEDRL_HOME=$(cd "$here/../.." && pwd)
export XDG_CACHE_HOME MEDRL_HOME
unset HF_HOME HF_HUB_CACHE
checks=0

fail() {
    printf '%s\n' "$0: $*" >&2
    printf '%s\n' "--- stdout" >&2
    cat "$temp/out" >&2 2>/dev/null
    printf '%s\n' "--- stderr" >&2
    cat "$temp/err" >&2 2>/dev/null
    exit 1
}

# run CODE ARGS...: runs medrl with stdin from $temp/in when there is one; stdout and stderr go to $temp/out and $temp/err. A failure
# must print exactly one line that begins with "medrl: ".
run() {
    expected=$1
    shift
    [ -e "$temp/in" ] || : >"$temp/in"
    code=0
    "$medrl" "$@" <"$temp/in" >"$temp/out" 2>"$temp/err" || code=$?
    checks=$((checks + 1))
    [ "$code" = "$expected" ] || fail "medrl $*: exit code $code, want $expected"
    lines=$(grep -c '^medrl: ' "$temp/err")
    if [ "$expected" != 0 ]; then
        [ "$lines" = 1 ] || fail "medrl $*: $lines lines begin with \"medrl: \", want one"
    fi
    : >"$temp/in"
}

# says TEXT: stderr holds it; prints TEXT: stdout does.
says() { checks=$((checks + 1)); grep -qF -- "$1" "$temp/err" || fail "stderr lacks: $1"; }
prints() { checks=$((checks + 1)); grep -qF -- "$1" "$temp/out" || fail "stdout lacks: $1"; }
is() { checks=$((checks + 1)); [ "$1" = "$2" ] || fail "got \"$1\", want \"$2\""; }
feed() { printf '%s\n' "$@" >"$temp/in"; }
# A model with a tokenizer: the tiny fixture and the 96 tokens that fit it.
tiny_model() {
    mkdir -p "$temp/tiny"
    cp "$golden/tiny/$1/"* "$golden/tokenizer_tiny96/"* "$temp/tiny/"
    chmod -R u+w "$temp/tiny"
}
# The metrics of a run, but for what a clock says.
without_clock() {
    sed 's/"time\/[^,}]*[,}]//g; s/"step_time"[^,}]*[,}]//g' "$1/metrics.jsonl"
}
# steps_for SECONDS LEAST ARGS...: $steps, how many steps of `medrl run ARGS` take that long on this machine, and at least LEAST, by 300 of them.
# For what is done beside a run, which takes its time on a fast machine too.
steps_for() {
    seconds=$1 least=$2
    shift 2
    before=$(date +%s%N)
    run 0 run "$@" -o "$temp/probe" -q --threads 1 --set grpo.max_steps=300 --set grpo.save_steps=0 --set grpo.guards=false
    steps=$((300 * seconds * 1000 / (($(date +%s%N) - before) / 1000000 + 1)))
    [ $steps -ge "$least" ] || steps=$least
    rm -rf "$temp/probe"
}
passed() { echo "$(basename "$0"): $checks checks"; }
