--- 59. PCRE2: \C, callouts, long names.
-- expect 1: V is disabled
-- expect 2: OK0
-- expect 3: V
return {
  function() return require("medrl.re").compile("\\C") end,
  function() return require("medrl.re").compile("a(?C1)b"):test("ab") and 1 end,
  function() return require("medrl.re").compile("a(*SKIP:" .. ("x"):rep(300) .. ")b") end,
}
