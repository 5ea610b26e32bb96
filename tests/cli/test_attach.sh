#!/bin/sh
# test_attach.sh - `medrl attach` on live runs: looking, setting, pausing, sampling, stopping; what is in the events; hostile clients; a run that
# was looked at has the bits of one that was not.
. "$(dirname "$0")/lib.sh"
cd "$temp" || exit 1
XDG_STATE_HOME=$temp/state
export XDG_STATE_HOME
smoke=$MEDRL_HOME/lua/recipes/smoke.lua

start() { # OUTPUT STEPS [MORE...]: a run in the background, which ends by itself after that many steps; the folder is ready when this returns
    folder=$1 steps=$2
    shift 2
    "$medrl" run "$smoke" -o "$folder" --threads 1 --set grpo.max_steps="$steps" --set grpo.save_steps=0 --set grpo.guards=false "$@" >"$folder.out" 2>"$folder.err" </dev/null &
    pid=$!
    waited=0
    while [ ! -S "$folder/control.sock" ]; do
        sleep 0.05
        waited=$((waited + 1))
        kill -0 $pid 2>/dev/null || { cat "$folder.err" >&2; fail "$folder ended before it listened"; }
        [ $waited -lt 1200 ] || fail "$folder does not listen"
    done
}
ends() { # CODE
    code=0
    wait $pid || code=$?
    is "$code" "$1"
}
event() { checks=$((checks + 1)); grep -qF -- "$2" "$1/events.jsonl" || { cat "$1/events.jsonl" >&2; fail "$1/events.jsonl lacks: $2"; }; }

# --- nobody there
run 2 attach nowhere
mkdir empty
run 2 attach empty
says 'empty: is no run folder'

# --- a socket that cannot be made: one warning, and the run goes on
mkdir odd
echo x >odd/control.sock
run 0 run "$smoke" -o odd --set grpo.max_steps=1
says 'control.sock: is no socket'
says 'the run goes on without it'

# --- a live run: paused first, so that what follows is at one step
start live 100000
is "$(stat -c %a live/control.sock)" 600
run 0 attach live -e 'run:pause("to look at it")' -e 'run.paused ~= nil'
prints 'true'
grep -q 'attach   medrl attach live' live.err || fail "the banner does not say how to attach"
run 0 attach live --json -e 'run.step'
at=$(cat out)
run 0 attach live --json -e 'run.step'
is "$(cat out)" "$at"
run 0 attach live --json -e '{ run.max_steps, run.method, run.rows, #run:rewards(), run.clients }'
is "$(cat out)" '[100000,"grpo",24,5,1]'
run 0 attach live --json -e '{ type(run:metrics().reward), #run:last(), type(run:last(1).completions[1].rewards.correctness), #run:scripts() > 5 }'
[ "$at" = 0 ] || is "$(cat out)" '["number",2,"number",true]'
run 0 attach live --json -e 'run:settings()["grpo.learning_rate"]'
is "$(cat out)" 0.001
run 0 attach live -e 'run:set{ learning_rate = 2e-6, beta = 0 }'
prints '["grpo.learning_rate"] = 2e-06'
run 0 attach live --json -e 'run:settings()["grpo.learning_rate"]'
is "$(cat out)" 2e-06
run 2 attach live -e 'run:set{ learning_rat = 1 }'
says 'did you mean'
run 2 attach live -e 'run:set{ num_generations = 5 }'
says 'memory is planned with it'
run 2 attach live -e 'run:set{ max_grad_norm = 0.5, learning_rate = "fast" }'
run 0 attach live --json -e 'run:sample("list: A salt, B iron. which letter is iron?", { n = 3, seed = 1, max_new_tokens = 6 })'
sample=$(cat out)
run 0 attach live --json -e 'model:generate("list: A salt, B iron. which letter is iron?", { n = 3, seed = 1, max_new_tokens = 6 })'
is "$(cat out)" "$sample"
run 0 attach live --json -e 'run:sample(data[1], { n = 2 })[1].rewards.correctness ~= nil'
is "$(cat out)" true
run 2 attach live -e 'run:sample("x", { n = 100 })'
says 'num_generations'
run 0 attach live --json -e 'score("<answer>yes</answer>", { answer = "yes", kind = "finding" }).rewards.correctness'
is "$(cat out)" 2
run 0 attach live -e 'run:checkpoint()'
prints "live/checkpoint-$at"
[ -s "live/checkpoint-$at/MANIFEST" ] || fail "no checkpoint"
run 2 attach live -e 'run:nothing()'
run 2 attach live -e 'step(1)'
feed 'run.step' 'x = run.step + 1' 'print(x > run.step)'
run 0 attach live
prints true
run 0 attach live -e 'run:resume()'
run 2 attach live -e 'run:resume()'
says 'resume: the run is not paused'
run 0 attach live -e 'run:metrics(2)' -e 'run:stop()'
ends 0
[ ! -e live/control.sock ] || fail "the socket stays"
[ -s live/adapter/adapter_model.safetensors ] || fail "a run that was stopped has no result"
for text in '"kind": "set", "text": "grpo.learning_rate 0.001 -> 2e-06 (attach)"' '"by": "attach", "pid": ' '"method": "pause"' \
    '"kind": "pause"' 'to look at it' '"method": "checkpoint"' '"method": "resume"' '"kind": "go on"' '"method": "stop"' 'ended early'; do
    event live "$text"
done
run 2 attach live
says 'live: the run has ended, after step'
run 2 resume live --set x=1
run 0 hash live

# --- a run that was looked at all the time has the bits of one that was left alone
run 0 run "$smoke" -o alone -q --threads 1 --set grpo.max_steps=60 --set grpo.save_steps=0 --set grpo.guards=false
start watched 60
looks=0
while "$medrl" attach watched -e 'run:last()' -e 'run:metrics(3)' -e 'run:sample("hello", { n = 2 })' -e 'score("x", data[1])' -e 'run:settings()' \
    >out 2>err </dev/null; do
    looks=$((looks + 1))
done
ends 0
[ $looks -ge 2 ] || fail "the run was over before anybody looked"
run 0 hash alone
alone=$(cat out)
run 0 hash watched
is "$(cat out)" "$alone"

# --- a setting that was changed is changed again when the run is continued from before it
start changed 24 --set grpo.save_steps=1
run 0 attach changed -e 'run:pause()' -e 'run:set{ learning_rate = 5e-3, reward_weights = { correctness = 3 } }' -e 'run:resume()'
ends 0
run 0 hash changed
whole=$(cat out)
cp -r changed again
for folder in again/checkpoint-*; do [ "$folder" = again/checkpoint-1 ] || rm -rf "$folder"; done
rm -rf again/adapter
run 0 resume again
run 0 hash again
is "$(cat out)" "$whole"

# --- clients that misbehave: the run goes on, with the same bits
if command -v perl >/dev/null 2>&1; then
    start abused 60
    cat >abuse.pl <<'PERL'
use IO::Socket::UNIX; use Socket; $SIG{PIPE} = 'IGNORE';
sub open_one { IO::Socket::UNIX->new(Type => SOCK_STREAM, Peer => $ARGV[0]) }
my $s;
for my $i (1 .. 200) { $s = open_one() or exit 0; close $s }
$s = open_one() and print $s '{"id":1,"method":"sta' and close $s;
$s = open_one(); if ($s) { for (1 .. 160) { syswrite($s, 'x' x 65536) or last } close $s }
$s = open_one(); if ($s) { print $s "{\"method\":\"last\"}\n" x 200; $s->flush; select undef, undef, undef, 0.2; sysread $s, my $b, 10; close $s }
$s = open_one(); if ($s) { print $s "nonsense\n\n[]\n{\"method\":7}\n"; $s->flush; close $s }
my @many = map { open_one() } 1 .. 12;
$s = open_one(); if ($s) { print $s "{\"method\":\"status\"}\n" x 2000; $s->flush; select undef, undef, undef, 0.1; close $s }
PERL
    perl abuse.pl abused/control.sock || fail "the clients could not connect"
    ends 0
    run 0 hash abused
    is "$(cat out)" "$alone"
    # what docs/attach.md shows: one line in, one out
    start spoken 100000
    perl -MIO::Socket::UNIX -MSocket -e '$s = IO::Socket::UNIX->new(Type => SOCK_STREAM, Peer => $ARGV[0]) or die; print $s "{\"id\":1,\"method\":\"hello\"}\n{\"id\":2,\"method\":\"stop\"}\n"; $s->flush; shutdown $s, 1; print while <$s>;' \
        spoken/control.sock >out 2>err || fail "no answer"
    prints '"protocol": 1'
    prints '{"id": 2, "result": {"step": '
    ends 0
else
    echo "$0: the misbehaving clients are skipped: they need perl"
fi

# --- docs/attach.md: its Python example works, and it names every method
if command -v python3 >/dev/null 2>&1; then
    start python 100000
    awk '/^```python$/ { on = 1; next } /^```$/ { on = 0 } on' "$here/../../docs/attach.md" >example.py
    python3 example.py python >out 2>err || fail "the example of docs/attach.md fails"
    prints "{'grpo.learning_rate': 2e-06}"
    run 0 attach python -e 'run:stop()'
    ends 0
else
    echo "$0: the example in Python is skipped: it needs python3"
fi
for method in $(sed -n 's/^    { "\([a-z]*\)", m_[a-z]*, MR_STAGE.*/\1/p' "$here/../../runtime/cli/live.c") watch; do
    checks=$((checks + 1))
    grep -q "^| .$method. |" "$here/../../docs/attach.md" || fail "docs/attach.md lacks the method $method"
done

# --- a run that was killed leaves a socket behind; the next one replaces it
start killed 100000 --set grpo.save_steps=1
waited=0
while [ ! -e killed/checkpoint-1/MANIFEST ]; do sleep 0.05; waited=$((waited + 1)); [ $waited -lt 600 ] || fail "no checkpoint"; done
kill -KILL $pid
ends 137
[ -S killed/control.sock ] || fail "the socket is gone"
run 2 attach killed
says 'the run has ended'
"$medrl" resume killed >killed.out 2>killed.err </dev/null &
pid=$!
waited=0
until "$medrl" attach killed -e 'run:stop()' >out 2>err </dev/null; do
    waited=$((waited + 1)) # without a pause: asking must not keep the run from beginning
    kill -0 $pid 2>/dev/null || { cat killed.err >&2; fail "the resumed run ended"; }
    [ $waited -lt 60000 ] || fail "a resumed run does not listen"
done
ends 0
passed
