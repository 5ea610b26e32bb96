--- 53. A pattern that backtracks without end.
-- expect 1: T
return {
  function() return (("a"):rep(28)):find(("a*"):rep(20) .. "b") or 0 end,
}
