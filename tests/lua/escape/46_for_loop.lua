--- 46. A counted loop.
-- expect 1: T
return {
  function() for _ = 1, math.huge do end end,
}
