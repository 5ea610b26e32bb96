#!/bin/sh
# test_example.sh - the console blocks of examples/new_reward/README.md, typed again: what comes is what is written there. And the
# files beside it are those that the page ends with.
. "$(dirname "$0")/lib.sh"
example=$here/../../examples/new_reward
mkdir "$temp/bin" "$temp/work"
ln -s "$medrl" "$temp/bin/medrl"
# commands, each with a mark behind it, and what is to come between the marks
awk -v commands="$temp/commands" -v want="$temp/want" '
  /^```console/ { on = 1; next }
  /^```/ { if (on) mark(); on = 0; next }
  function mark() { if (open) { print "echo @@" n >commands; print "@@" n >want }; open = 0 }
  on && /^\$ / { mark(); print substr($0, 3) >commands; open = 1; n++; next }
  on && /^>/ { print substr($0, 3) >commands; next }
  on { print >want }' "$example/README.md"
checks=$(grep -c '^@@' "$temp/want")
[ "$checks" -gt 12 ] || fail "$checks commands were found in the page"
(cd "$temp/work" && PATH=$temp/bin:$PATH sh "$temp/commands" >"$temp/got" 2>&1)
diff -u "$temp/want" "$temp/got" >"$temp/out" || fail "the page says something else"
cmp -s "$temp/work/rewards/cites.lua" "$example/rewards/cites.lua" || fail "rewards/cites.lua is not what the page ends with"
cmp -s "$temp/work/recipes/notes.lua" "$example/recipes/notes.lua" || fail "recipes/notes.lua is not what the page ends with"
: >"$temp/out"
run 0 test "$example/rewards" "$example/recipes"
passed
