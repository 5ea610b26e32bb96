--- 58. PCRE2 patterns that are bombs.
-- expect 1: V too deeply nested
-- expect 2: V
-- expect 3: V malformed
-- expect 4: OK0
return {
  function() return require("medrl.re").compile(("("):rep(300) .. (")"):rep(300)) end,
  function() return require("medrl.re").compile("(?R)*a|(?R)(?R)"):test("aaaa") end,
  function() return require("medrl.re").compile("(*LIMIT_MATCH=4294967295)a") end,
  function(completion, row)
    local found, why = require("medrl.re").compile("(*LIMIT_MATCH=4000000000)^(([a-z])+.)+[A-Z]"):test(("a"):rep(60))
    return not found and why == "match limit reached" and 1
  end,
}
