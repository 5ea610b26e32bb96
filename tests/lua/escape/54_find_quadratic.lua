--- 54. Innocent patterns on much text.
-- expect 1: T
-- expect 2: T
return {
  function() return (("a"):rep(3000)):find(".-.-.-b") or 0 end,
  function() return (("a"):rep(1e6)):find(".-b") or 0 end,
}
