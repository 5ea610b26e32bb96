--- 47. A loop inside pcall inside a loop.
-- expect 1: T
return {
  function() while true do pcall(function() while true do end end) end end,
}
