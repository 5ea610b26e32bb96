#!/bin/sh
# test_socket.sh - the socket of a run against those who should not get through and those who misbehave, from outside: another user, lines of
# 64 KiB and of 10 MB, half lines, a thousand connects, clients that are killed in the middle of a reply, more than eight, one that never
# reads; a stale socket and one that is not; and Lua that does not end, ended by Ctrl-C and by --break. The run is that of one left alone.
# Source: reliability.md P16.
. "$(dirname "$0")/lib.sh"
cd "$temp" || exit 1
XDG_STATE_HOME=$temp/state
export XDG_STATE_HOME
smoke=$MEDRL_HOME/lua/recipes/smoke.lua
command -v perl >/dev/null 2>&1 || { echo "$(basename "$0"): skipped, it needs perl"; exit 0; }

start() { # FOLDER STEPS
    folder=$1
    "$medrl" run "$smoke" -o "$1" --threads 1 --set grpo.max_steps="$2" --set grpo.save_steps=0 --set grpo.guards=false >"$1.out" 2>"$1.err" </dev/null &
    pid=$!
    waited=0
    while [ ! -S "$1/control.sock" ]; do
        sleep 0.05
        waited=$((waited + 1))
        kill -0 $pid 2>/dev/null || { cat "$1.err" >&2; fail "$1 ended before it listened"; }
        [ $waited -lt 1200 ] || fail "$1 does not listen"
    done
}
ends() { # CODE
    code=0
    wait "$pid" || code=$?
    is "$code" "$1"
}
steps_for 5 250 "$smoke" # the clients below take less than two
run 0 run "$smoke" -o alone -q --threads 1 --set grpo.max_steps=$steps --set grpo.save_steps=0 --set grpo.guards=false
run 0 hash alone
alone=$(cat out)

cat >client.pl <<'PERL'
use strict; use warnings; use IO::Socket::UNIX; use Socket; $SIG{PIPE} = 'IGNORE'; $| = 1;
my ($path, $what) = @ARGV;
sub one { IO::Socket::UNIX->new(Type => SOCK_STREAM, Peer => $path) or die "no connection: $!\n" }
sub put { my ($s, $text) = @_; my $at = 0; while ($at < length $text) { my $n = syswrite($s, $text, length($text) - $at, $at); last unless defined $n; $at += $n } }
sub line { my ($s) = @_; my $l = <$s>; $l // "closed\n" }
my $status = "{\"id\":7,\"method\":\"keys\"}\n";
if ($what eq "longest") {                     # 65536 bytes with its end cut off are taken, one more is not
    my $s = one(); put($s, "{\"id\":1,\"method\":\"keys\"}" . " " x (65536 - 24) . "\n"); print line($s);
    $s = one(); put($s, "{\"id\":1,\"method\":\"keys\"}" . " " x (65537 - 24) . "\n"); print line($s);
} elsif ($what eq "10mb") {
    my $s = one(); put($s, "x" x 65536) for 1 .. 160; print line($s); print line($s);
} elsif ($what eq "half") {
    my $s = one(); put($s, substr($status, 0, 11)); close $s;
    $s = one(); put($s, substr($status, 0, 11)); select undef, undef, undef, 0.2; put($s, substr($status, 11)); print line($s);
} elsif ($what eq "connects") {
    for (1 .. 1000) { my $s = one(); close $s }
    my $s = one(); put($s, $status); print line($s);
} elsif ($what eq "killed") {                 # asks for much, reads a little, is gone
    for (1 .. 20) { my $s = one(); put($s, "{\"method\":\"last\"}\n" x 50); sysread $s, my $b, 100; close $s }
    my $s = one(); put($s, $status); print line($s);
} elsif ($what eq "nine") {
    my @eight = map { my $s = one(); put($s, $status); line($s); $s } 1 .. 8;
    my $s = one(); print line($s); print line($s);
    close $eight[3]; select undef, undef, undef, 0.3;
    $s = one(); put($s, $status); print line($s);
} elsif ($what eq "deaf") {                   # never reads; another one is served all the same
    my $deaf = one(); put($deaf, "{\"method\":\"last\"}\n" x 400);
    my $s = one(); for (1 .. 5) { put($s, $status); print line($s) }
} elsif ($what eq "who") { my $s = one(); print line($s) }
PERL
client() { timeout 60 perl client.pl "$folder/control.sock" "$1" >out 2>err || fail "client $1: exit code $?"; }

start abused $steps
client longest
is "$(sed -n 1p out | cut -c1-9)" '{"id": 1,'
sed -n 2p out | grep -q '"id": null.*a line has more than 65536 bytes' || fail "a line of 65537 bytes is taken"
client 10mb
prints 'a line has more than 65536 bytes'
prints 'closed'
client half
is "$(cut -c1-9 out)" '{"id": 7,'
client nine
sed -n 1p out | grep -q '"busy"' || fail "a ninth client is let in"
is "$(sed -n 2p out)" closed
is "$(sed -n 3p out | cut -c1-9)" '{"id": 7,'
client deaf
is "$(grep -c '^{"id": 7' out)" 5
client connects
is "$(cut -c1-9 out)" '{"id": 7,'
client killed
is "$(cut -c1-9 out)" '{"id": 7,'
ends 0
run 0 hash abused
is "$(cat out)" "$alone"

# --- another user, when this one may be one: by the mode of the socket, and when that was opened by the user's id
start mine 100000
if [ "$(id -u)" = 0 ] && command -v setpriv >/dev/null 2>&1; then
    chmod 755 "$temp" mine
    other() { setpriv --reuid=65534 --regid=65534 --clear-groups timeout 20 perl client.pl mine/control.sock who >out 2>&1; }
    ! other || fail "another user was let in"
    grep -q 'no connection: Permission denied' out || fail "another user: no refusal by the mode"
    chmod 666 mine/control.sock
    other || fail "another user: no answer: $(cat out)"
    prints '"code": "forbidden"'
    prints 'belongs to another user'
else
    echo "another user is left out: it needs root and setpriv"
fi

# --- the socket of a run that lives is nobody else's to replace: not by resume, and not without the lock file either
inode=$(stat -c %i mine/control.sock)
run 2 resume mine
says "mine"
is "$(stat -c %i mine/control.sock)" "$inode"
run 0 attach mine -e 'run:checkpoint()'
rm -f mine/lock
run 75 resume mine -q
says "its folder is in use by another process, whose lock file was removed"
is "$(stat -c %i mine/control.sock)" "$inode"

# --- Lua that does not end: in the session's own process; Ctrl-C ends it, and so does --break from outside
looped() { # WHAT: a session that computes for ever, in the background
    env --default-signal=INT "$medrl" attach mine -e "$1" >loop.out 2>loop.err </dev/null &
    loop=$!
    waited=0
    until [ "$("$medrl" attach mine --json -e 'run.clients' 2>/dev/null </dev/null)" -ge 2 ] 2>/dev/null; do
        sleep 0.05
        waited=$((waited + 1))
        [ $waited -lt 400 ] || fail "the session does not come"
    done
    sleep 0.2
}
gone() { # CODE
    code=0
    wait $loop || code=$?
    is "$code" "$1"
}
looped 'while true do end'
kill -INT $loop 2>/dev/null || fail "the session is not there"
gone 130
for loop_text in 'while true do end' 'while true do pcall(function() while true do end end) end'; do
    looped "$loop_text"
    run 0 attach mine --break
    prints '1 session interrupted'
    gone 130
done
run 0 attach mine --break
prints '0 sessions interrupted'
run 0 attach mine -e 'run:stop()'
ends 0
passed
