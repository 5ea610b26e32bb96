#!/bin/sh
# test_terminal.sh - `medrl repl` and `medrl attach` in a real terminal: keys are typed into tmux and the screen is read.
. "$(dirname "$0")/lib.sh"
command -v tmux >/dev/null 2>&1 || { echo "$(basename "$0"): skipped, it needs tmux"; exit 0; }
cd "$temp" || exit 1
: >out
XDG_STATE_HOME=$temp/state
TERM=xterm-256color
LC_ALL=C.UTF-8
export XDG_STATE_HOME TERM LC_ALL
unset TMUX NO_COLOR
smoke=$MEDRL_HOME/lua/recipes/smoke.lua
tm() { tmux -u -S "$temp/tmux" -f /dev/null "$@"; }
trap 'tm kill-server 2>/dev/null; rm -rf "$temp"' EXIT

printf '#!/bin/sh\necho $$ >pid\nexec "$@"\n' >start
chmod +x start
begin() { # WIDTH HEIGHT ARGS...: medrl in a new terminal; its exit code is written to the file `code`
    width=$1 height=$2
    shift 2
    rm -f code
    tm kill-server 2>/dev/null
    while tm ls 2>/dev/null >&2; do sleep 0.05; done
    tm new-session -d -x "$width" -y "$height" "./start \"$medrl\" $*; echo \$? >code; sleep 600"
}
screen() { tm capture-pane -p >out 2>>err; }
# sees TEXT: within 20 s the screen holds it
sees() {
    checks=$((checks + 1))
    waited=0
    until screen && grep -qF -- "$1" out; do
        sleep 0.05
        waited=$((waited + 1))
        [ $waited -lt 400 ] || fail "the screen lacks: $1"
    done
}
sees_line() { # the whole line
    checks=$((checks + 1))
    waited=0
    until screen && grep -qxF -- "$1" out; do
        sleep 0.05
        waited=$((waited + 1))
        [ $waited -lt 400 ] || fail "the screen lacks the line: $1"
    done
}
keys() { tm send-keys "$@"; }
types() { tm send-keys -l -- "$1"; }
enters() { types "$1"; keys Enter; }
exits() { # CODE
    waited=0
    while [ ! -s code ]; do
        sleep 0.05
        waited=$((waited + 1))
        [ $waited -lt 400 ] || { screen; fail "it does not end"; }
    done
    is "$(cat code)" "$1"
}

# --- values, chunks of many lines, errors
begin 80 24 repl "$smoke"
sees 'help lists what there is, Ctrl-D ends it'
sees_line '>'
enters '1 + 1'
sees_line '2'
enters 'for i = 1, 2 do'
sees_line '>>'
enters 'print("line " .. i)'
enters 'end'
sees_line 'line 2'
enters 'nothing.x'
sees "repl:1: attempt to index global 'nothing' (a nil value)"
enters '"h\195\169llo", "📎 é"'
sees_line '"héllo"'
sees_line '"📎 é"'
# what a model may say does not reach the terminal as it is
enters 'print("\27[2J\27]0;owned\7gone")'
sees_line '?[2J?]0;owned?gone'

# --- Ctrl-C: the line that is typed, a chunk that is half typed, a loop, a loop that catches errors, sampling
keys C-l
types 'half a line'
sees '> half a line'
keys C-c
types 'x = 41 + 1'
keys Enter
enters 'x'
sees_line '42'
enters 'if true then'
sees_line '>>'
keys C-c
sees_line '>'
enters '"after the chunk"'
sees_line '"after the chunk"'
enters 'while true do end'
sleep 0.3
keys C-c
sees 'interrupted'
enters '"one"'
sees_line '"one"'
enters 'while true do pcall(function() while true do end end) end'
sleep 0.3
keys C-c
enters '"two"'
sees_line '"two"'
enters 'model:generate("hello", { n = 64, temperature = 3, max_new_tokens = 60 }) while true do end'
sleep 1
keys C-c
enters '"three"'
sees_line '"three"'

# --- Tab: names, methods, settings; two presses list what there is
keys C-l
types 'mod'
keys Tab
sees '> model'
types ':g'
keys Tab
sees '> model:generate('
keys C-c
types 'set{ max_grad'
keys Tab
sees '> set{ max_grad_norm ='
keys C-c
types 'run:s'
keys Tab Tab
sees 'run:settings('
sees 'run:status('
keys C-c
keys C-l

# --- wide tables fit the terminal, also after it changed
enters 't = { name = "a table that is wide", list = { 1, 2, 3 }, more = "and some more text in it", n = 12 }'
enters 't'
sees_line '  name = "a table that is wide",'
tm resize-window -x 140 -y 24 2>/dev/null
sleep 0.2
enters 't'
sees_line '{ list = { 1, 2, 3 }, more = "and some more text in it", n = 12, name = "a table that is wide" }'
tm resize-window -x 30 -y 24 2>/dev/null
sleep 0.2
keys C-l
enters '{ 1000, 2000, 3000, 4000, 5000 }'
sees_line '  1000, 2000, 3000, 4000,'
tm resize-window -x 80 -y 24 2>/dev/null
sleep 0.2

# --- a step with its line, a conversation inside, Ctrl-D
keys C-l
enters 'step(1)'
sees 'rewards     xmlcount'
sees_line '>'
enters 'chat()'
sees_line 'you>'
enters 'hello'
sees_line 'you>'
keys C-d
sees_line '>'
enters '"back"'
sees_line '"back"'
keys C-d
exits 0
sees 'medrl resume outputs-smoke'
is "$(stat -c %a state/medrl/history)" 600

# --- history: of this session and of the one before; Ctrl-C and Ctrl-D at an empty prompt
begin 60 20 repl
sees_line '>'
keys Up
sees '> "back"'
keys Up
sees '> chat()'
keys C-c
enters '"fresh"'
sees_line '"fresh"'
keys Up
sees '> "fresh"'
keys Enter
keys C-c
keys C-c
keys C-c
keys C-c
enters '"still here"'
sees_line '"still here"'
keys C-d
exits 0
grep -q fresh state/medrl/history || fail "the history is not kept"
[ "$(grep -c '"fresh"' state/medrl/history)" = 1 ] || fail "the history holds a line twice in a row"
begin 60 20 repl
sees_line '>'
enters ':quit'
exits 0

# --- Ctrl-C within training; what cannot be stopped ends at the third Ctrl-C, with the terminal in order; SIGTERM
begin 100 30 repl "$smoke" -q -o long --set grpo.max_steps=100000 --set grpo.save_steps=0 --set grpo.guards=false
sees_line '>'
enters 'step(1) step(99999)'
waited=0
until [ -s long/metrics.jsonl ] && [ "$(wc -l <long/metrics.jsonl)" -ge 3 ]; do sleep 0.05; waited=$((waited + 1)); [ $waited -lt 400 ] || fail "no steps"; done
keys C-c
sees 'interrupted after step'
enters 'step(99999)'
keys C-c
sees_line '>'
for pause in 0.1 0.13 0.17 0.2 0.23 0.27; do # wherever in a step it comes, the next one is whole
    keys C-l
    enters 'step(99999)'
    sleep $pause
    keys C-c
    sees 'interrupted'
    enters 'm = run.step step(1) print(run.step - m, "whole")'
    sees '1       whole'
done
keys C-l
enters 'n = run.step step(1) print(run.step - n, "more")'
sees '1       more'
enters '("a"):rep(40):find(("a*"):rep(40) .. "b")'
sleep 0.3
keys C-c
sleep 0.2
keys C-c
sleep 0.2
keys C-c
exits 130
sees 'medrl: stopped at once by SIGINT'
begin 80 24 repl
sees_line '>'
enters '"before"'
sees_line '"before"'
kill -TERM "$(cat pid)"
exits 143
sees 'medrl: repl: stopped by SIGTERM'

# --- Ctrl-C between the end of a line and its beginning to run, which a long history makes longer: it is the line's
{
    echo _HiStOrY_V2_
    awk 'BEGIN { w = sprintf("%2000s", ""); gsub(/ /, "x", w); for (i = 0; i < 1990; i++) print w i }'
} >state/medrl/history
begin 80 24 repl
for i in $(seq 24); do
    keys C-l
    types "while true do end -- $i"
    sees_line "> while true do end -- $i"
    keys Enter
    sleep "$(printf '0.%04d' $((i * 4)))"
    keys C-c
    sees_line '>'
done
enters ':quit'
exits 0
: >state/medrl/history

# --- attach: a run that is going on, and its end
"$medrl" run "$smoke" -o live --threads 1 --set grpo.max_steps=100000 --set grpo.save_steps=0 --set grpo.guards=false >live.out 2>live.err </dev/null &
pid=$!
waited=0
while [ ! -S live/control.sock ]; do sleep 0.05; waited=$((waited + 1)); [ $waited -lt 1200 ] || fail "the run does not listen"; done
begin 90 24 attach live
sees 'attached to live'
enters 'run.max_steps'
sees_line '100000'
enters 'run:pause()'
sees '"attach, process'
enters ':set learning_rate 2e-6'
sees_line '{ ["grpo.learning_rate"] = 2e-06 }'
enters '#run:sample("hello", { n = 2 })'
sees_line '2'
types 'run:che'
keys Tab
sees '> run:checkpoint('
types ')'
keys Enter
sees 'live/checkpoint-'
enters 'while true do end'
sleep 0.3
keys C-c
sees 'interrupted'
enters 'run:resume()'
enters 'run:stop()'
code=0
wait $pid || code=$?
is "$code" 0
keys Enter
sees 'live: the run has ended, after step'
keys C-l
enters '20 + 2'
sees_line '22'
enters 'run.step'
sees 'the run has ended'
keys C-d
exits 0

# --- without the line editor: one line that says what to do
mkdir lost
: >lost/libedit.so.2
LD_LIBRARY_PATH=$temp/lost
export LD_LIBRARY_PATH
begin 200 24 repl "$smoke"
sees 'libedit: not installed here, a session at a terminal wants it; apt-get install libedit2'
exits 2
unset LD_LIBRARY_PATH
passed
