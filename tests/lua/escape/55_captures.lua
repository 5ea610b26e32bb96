--- 55. 31 captures on 250 kB.
-- expect 1: T,V too complex
return {
  function() return (("a"):rep(250000)):find(("(.-)"):rep(31) .. "b") or 0 end,
}
