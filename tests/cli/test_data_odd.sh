#!/bin/sh
# test_data_odd.sh - 48 files as people have them through `medrl data`: exit code 0, the odd row kept or counted under its reason, or 65 and
# one line that names file and line; and what is kept is as many rows as are good. test_data_odd.c compares the rows themselves.
# Source: reliability.md P9.
. "$(dirname "$0")/lib.sh"
cd "$temp" || exit 1
mkdir datasets
cat >datasets/odd.lua <<'LUA'
return { name = "odd", columns = { { "q", "string" }, { "a", "string" } },
  keep = function(r) if r.q == "kept not" then return false, "the question says so" end return true end,
  row = function(r)
    if r.a == "" then return nil, "the answer is empty" end
    if r.a == "boom" then return r.no.such end
    return { messages = { { role = "user", content = r.q } }, answer = r.a }
  end }
LUA
cat >odd.lua <<'LUA'
local data = require "medrl.data"
return { rewards = { "correctness" }, model = { name = "examples/nano" },
  data = { system = "", train = data.get "odd", files = { odd = "x.jsonl" } } }
LUA
files=0
# odd CODE TEXT [FILE]: what `medrl data` makes of the file
odd() {
    run "$1" data odd.lua --set "data.files.odd=${3-x.jsonl}"
    if [ "$1" = 0 ]; then prints "$2"; else says "$2"; fi
    files=$((files + 1))
}
plain() { awk -v n="$1" -v end="$2" 'BEGIN { for (i = 0; i < n; i++) printf "{\"q\":\"q%d\",\"a\":\"a%d\"}%s", i, i % 3, end }'; }
# row CODE TEXT LINE [END]: 11 good rows, LINE (with printf's escapes), 19 good rows
row() {
    end=${4-'\n'}
    { plain 11 "$end"; printf "$3$end"; plain 19 "$end"; } >x.jsonl
    odd "$1" "$2"
}

# --- rows
row 0 '30 of 30 rows from x.jsonl, 0 filtered, 0 skipped' ''
row 0 '30 of 30 rows' ' \t '
row 0 '30 of 30 rows' '' '\r\n'
row 0 '31 of 31 rows' '{"q":"odd","a":"x","more":[1,{"deep":null}]}'
row 0 '31 of 31 rows' '{"q":"\\ud83d\\ude00","a":"x"}'
row 0 '1 skipped: field "a" is missing, want a string (first: x.jsonl:12)' '{"q":"odd"}'
row 0 '1 skipped: field "a" is missing, want a string (first: x.jsonl:12)' '{"q":"odd","a":null}'
row 0 '1 skipped: field "q" is a number, want a string (first: x.jsonl:12)' '{"q":7,"a":"x"}'
row 0 '1 skipped: field "q" is a table, want a string (first: x.jsonl:12)' '{"q":["odd"],"a":"x"}'
row 0 '1 skipped: field "q" is a boolean, want a string (first: x.jsonl:12)' '{"q":true,"a":"x"}' '\r\n'
row 0 '1 skipped: the answer is empty (first: x.jsonl:12)' '{"q":"odd","a":""}'
row 0 '1 filtered: the question says so (first: x.jsonl:12)' '{"q":"kept not","a":"x"}'
row 0 'different questions' '{"q":"q1","a":"a1"}'
row 65 'x.jsonl:12: byte 19: the key "q" stands twice' '{"q":"odd","a":"x","q":"odd"}'
row 65 'x.jsonl:12: byte 6: half of a surrogate pair alone' '{"q":"\\ud83d odd","a":"x"}'
row 65 'x.jsonl:12: byte 6: half of a surrogate pair alone' '{"q":"\\ude00","a":"x"}'
row 65 'x.jsonl:12: byte 6: \u0000' '{"q":"\\u0000","a":"x"}'
row 65 'x.jsonl:12: byte 7: bytes that are not UTF-8' '{"q":"o\377","a":"x"}'
row 65 'x.jsonl:12: byte 7: bytes that are not UTF-8' '{"q":"o\355\240\275","a":"x"}' '\r\n'
row 65 'x.jsonl:12: byte 7: a raw control character' '{"q":"o\001","a":"x"}'
row 65 'x.jsonl:12: byte 7: a raw control character' '{"q":"o\000","a":"x"}'
row 65 'x.jsonl:12: byte 0: an object that never ends' '{"q":"odd","a":"x"'
row 65 'x.jsonl:12: byte 19: more text behind the value' '{"q":"odd","a":"x"}{}'
row 65 'x.jsonl:12: the row is an array, want an object' '[1]'
row 65 'x.jsonl:12: the row is a string, want an object' '"x"'
row 65 'x.jsonl:12: the row is null, want an object' 'null'
row 65 'x.jsonl:12: the row is a number, want an object' '12'
row 65 'x.jsonl:12: byte ' '{"q":"odd","a":01}'
row 65 'x.jsonl:12: byte ' '{"q":"odd","a":NaN}'
row 65 'x.jsonl:12: row() (datasets/odd.lua:3): datasets/odd.lua:5: ' '{"q":"odd","a":"boom"}'

# --- files
: >x.jsonl
odd 65 'data.train has no rows: odd: 0 of 0 rows from x.jsonl'
printf '\n\r\n\n' >x.jsonl
odd 65 'data.train has no rows: odd: 0 of 0 rows from x.jsonl'
plain 5 '\n' | sed 's/"a":"[a0-9]*"/"a":""/' >x.jsonl
odd 65 'x.jsonl:1: the answer is empty; 5 of 5 rows were skipped like this'
plain 5 '\n' | sed 's/"q":"[q0-9]*"/"q":"kept not"/' >x.jsonl
odd 65 '5 filtered: the question says so (first: x.jsonl:1)'
printf '\037\213\010\000\000' >x.jsonl
odd 65 'x.jsonl: byte 5: the file ends in the middle of the stream (gzip, in line 1 of the text); fetch the file again'
plain 30 '\n' | gzip >x.jsonl # compressed by mistake: read as what it is
odd 0 '30 of 30 rows'
printf '\377\376{\000' >x.jsonl
odd 65 'x.jsonl:1: the file is UTF-16; save it as UTF-8'
{ printf '\357\273\277'; plain 30 '\n'; } | head -c -1 >x.jsonl # a byte order mark, and no newline at the end
odd 0 '30 of 30 rows'
plain 30 '\n' | head -c -6 >x.jsonl # cut in its last row
odd 65 'x.jsonl:30: byte '
{ plain 11 '\n'; printf '{"q":"odd","a":"x","more":"'; head -c 10485760 /dev/zero | tr '\0' y; printf '"}\n'; plain 3 '\n'; } >x.jsonl
odd 0 '15 of 15 rows' # a line of 10 MB is a row as any other
rm x.jsonl
odd 65 'x.jsonl'
mkdir x.jsonl
odd 65 'x.jsonl'
rmdir x.jsonl
printf 'q;a\nq0;a0\n' >x.csv
odd 65 'x.csv:1: the columns are separated by semicolons, want commas' x.csv
printf 'q,q\nq0,a0\n' >x.csv
odd 65 'x.csv:1: column "q" occurs twice in the header' x.csv
printf 'q,a\nq0,a0\nq1,a1,a2\n' >x.csv
odd 65 'x.csv:3: 3 fields, want 2 as in the header' x.csv
printf 'question,a\nq0,a0\n' >x.csv
odd 65 'x.csv:2: field "q" is missing, want a string; 1 of 1 rows were skipped like this' x.csv
printf 'q,a\nq0,a0\n"q1,a1\n' >x.csv # a quote that is never closed: where it is opened
odd 65 'x.csv:3: ' x.csv
printf 'q,a\nq0,"a\n0"\r\n"q ""1""",a1\n' >x.csv
odd 0 '2 of 2 rows' x.csv
printf '\357\273\277q,a,more\r\n"q \r\n,",a0,\r\nq1,"a1",m' >x.csv
odd 0 '2 of 2 rows' x.csv
[ $files -ge 45 ] || fail "only $files files"
echo "score: odd_data_files $files 45"
passed
