--- 45. A loop.
-- expect 1: T
return {
  function() while true do end end,
}
