--- 17. A finalizer that never ends.
-- expect 1: N global 'newproxy' (a nil value)
return {
  function() getmetatable(newproxy(true)).__gc = function() while true do end end end,
}
