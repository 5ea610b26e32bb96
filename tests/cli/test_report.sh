#!/bin/sh
# test_report.sh - `medrl report`: a run of 750 steps as one file, its size and time, hostile texts in it; the same served
# to this machine; and how both look in a browser, where one is there (chromium; MEDRL_TEST_BROWSER names another).
. "$(dirname "$0")/lib.sh"
cd "$temp" || exit 1

number() { sed -n "s/.*\"$1\": \([-0-9.e+]*\).*/\1/p" "$temp/out"; }
command -v lua5.1 >lua || { echo "test_report.sh: lua5.1 is missing (it comes with lua-check)"; exit 1; }
mkdir big
lua5.1 "$here/make_run.lua" big 750

run 0 report big --json
awk -v s="$(number seconds)" -v b="$(number bytes)" 'BEGIN { exit !(s < 2 && b < 5e6 && b > 3e5) }' ||
    fail "the report takes $(number seconds) s and $(number bytes) bytes, want less than 2 s and 5 MB"
page=big/report.html
# nothing in it ends the script element of the data, or begins another: two script elements, as written
is "$(grep -c '<script' $page)" 2
is "$(grep -c '</script>' $page)" 2
is "$(grep -c '<img\|<svg\|<!--' $page)" 0
grep -q 'u003cimg src=x onerror' $page || fail "the hostile text is not there at all"
# nothing to fetch, and a policy that says so
is "$(grep -o 'https\?://[a-z0-9./]*' $page | grep -v 'http://www.w3.org/2000/svg' | head -1)" ""
is "$(grep -c "default-src 'none'; .*script-src 'sha256-[A-Za-z0-9+/]*='" $page)" 1
grep -q '"groups":\[{"step":1,' $page || fail "the first group is not there"
grep -q '{"step":750,"row"' $page || fail "the last group is not there"
# every step's numbers, names and events
grep -q '"n_groups":750' $page || fail "not all groups are counted"
grep -q '"kind":"reload"' $page || fail "the reload is missing"
grep -q '"status":{"state":"done"' $page || fail "the state is not done"
is "$(grep -o '"steps":\[[0-9,]*\]' $page | tr , '\n' | wc -l)" 750

# a longer run than is drawn step by step: means of neighbors; half a line at the end is no trouble
mkdir long
lua5.1 "$here/make_run.lua" long 5000
printf '{"step": 5001, "loss"' >>long/metrics.jsonl
printf '{"step": 5001, "prompt_index": 0, "sam' >>long/samples.jsonl
run 0 report long --json --output long.html
awk -v b="$(number bytes)" 'BEGIN { exit !(b < 5e6) }' || fail "the long report has $(number bytes) bytes"
is "$(grep -o '"steps":\[[0-9,]*\]' long.html | tr , '\n' | wc -l)" 1667
is "$(grep -o '"steps":\[[0-9,]*\]' long.html | sed 's/.*,//')" "5000]"
run 0 report big -o - # to stdout
is "$(head -1 "$temp/out")" "<!doctype html>"
# a real run, from its first line on
run 0 run recipes/smoke.lua --output smoke --device cpu --threads 2
run 0 report smoke
prints smoke/report.html
grep -q '"rewards":\["xmlcount"' smoke/report.html || fail "the rewards' names are missing"
mkdir empty
run 2 report empty
says "empty: holds no run"

# --- served
# in a session of its own: what a shell starts with & is deaf to Ctrl-C
setsid --fork sh -c 'echo $$ >group; trap : INT; "$0" report --serve big --port 0 >url 2>served; echo $? >code' "$medrl"
to_group() { bash -c 'kill -s "$0" -- "-$1"' "$1" "$(cat "$temp/group")" 2>/dev/null; }
trap 'to_group KILL; rm -rf "$temp"' EXIT
for _ in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do [ -s url ] && break; sleep 0.1; done
url=$(cat url)
port=${url#http://127.0.0.1:}
port=${port%/}
case $port in *[!0-9]* | '') fail "no address: $url" ;; esac
# this machine's loopback address and no other
is "$(awk -v p="$(printf ':%04X' "$port")" '$4 == "0A" && index($2, p) { print $2 }' /proc/net/tcp)" "0100007F$(printf ':%04X' "$port")"
ask() { # REQUEST -> answer
    bash -c 'exec 3<>/dev/tcp/127.0.0.1/$0; printf "$1" >&3; cat <&3' "$port" "$1"
}
ask "GET / HTTP/1.1\r\nHost: 127.0.0.1:$port\r\n\r\n" >answer
is "$(head -1 answer | tr -d '\r')" "HTTP/1.1 200 OK"
grep -q '<!doctype html>' answer || fail "no page was served"
ask "GET /data.json HTTP/1.1\r\nHost: localhost:$port\r\n\r\n" >answer
tag=$(sed -n 's/^ETag: \(.*\)\r/\1/p' answer)
ask "GET /data.json HTTP/1.1\r\nHost: localhost:$port\r\nIf-None-Match: $tag\r\n\r\n" | head -1 | grep -q '304' || fail "want 304"
tail -1 big/metrics.jsonl | sed 's/"step": 750/"step": 751/' >>big/metrics.jsonl # the run goes on
ask "GET /data.json HTTP/1.1\r\nHost: localhost:$port\r\nIf-None-Match: $tag\r\n\r\n" >answer
head -1 answer | grep -q 200 || fail "a step more is no news"
grep -q '750,751\]' answer || fail "the new step is not served"
ask "GET / HTTP/1.1\r\nHost: evil.example:$port\r\n\r\n" | head -1 | grep -q 403 || fail "another host is served"
ask "GET / HTTP/1.1\r\n\r\n" | head -1 | grep -q 403 || fail "no host is served"
ask "POST / HTTP/1.1\r\nHost: localhost:$port\r\n\r\n" | head -1 | grep -q 405 || fail "POST is served"
ask "GET /../../etc/passwd HTTP/1.1\r\nHost: localhost:$port\r\n\r\n" | head -1 | grep -q 404 || fail "another path is served"
ask "rubbish\r\n\r\n" | head -1 | grep -q 403 || fail "rubbish is answered otherwise"
code=0
"$medrl" report --serve big --port "$port" >"$temp/out" 2>"$temp/err" || code=$?
is "$code" 2
says "port $port of 127.0.0.1 is in use"

# --- in a browser
browser=${MEDRL_TEST_BROWSER:-$(command -v chromium || command -v chromium-browser || command -v google-chrome || true)}
if [ -n "$browser" ]; then
    look() { # WIDTH ADDRESS -> the page as it stands after its script ran
        HOME=$temp timeout 60 "$browser" --headless=new --no-sandbox --disable-gpu --user-data-dir="$temp/browser" \
            --window-size="$1",900 --virtual-time-budget=3000 --dump-dom "$2" 2>browser.log
    }
    for width in 1280 400; do
        look $width "file://$temp/$page" >dom
        grep -q '<title>big · medrl</title>' dom || fail "the page at $width does not stand (or a text of the model ran)"
        grep -q 'data-fits="true"' dom || fail "the page is wider than a window of $width"
        is "$(grep -o '<section class="card chart' dom | wc -l)" 16
        [ "$(grep -o '<circle' dom | wc -l)" -ge 40 ] || fail "no evaluations are drawn"
        is "$(grep -o '<article class="answer' dom | wc -l)" 6
        is "$(grep -c '<img' dom)" 0
        grep -q '&lt;img src=x onerror=' dom || fail "the hostile text of an event is not shown as text"
    done
    look 1280 "$url" >dom
    grep -q '<title>big · medrl</title>' dom || fail "the served page does not stand"
else
    echo "test_report.sh: no browser is here (chromium): how the page looks was not checked"
fi
to_group INT
for _ in 1 2 3 4 5 6 7 8 9 10; do [ -s code ] && break; sleep 0.2; done
[ -s code ] || fail "Ctrl-C does not end it"
is "$(cat code)" 0
passed
