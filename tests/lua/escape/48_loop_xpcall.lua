--- 48. A loop in the handler of xpcall.
-- expect 1: T
return {
  function() xpcall(function() error("x") end, function() while true do end end) end,
}
