--- 50. A loop of coroutines: there are none.
-- expect 1: N global 'coroutine' (a nil value)
return {
  function() while true do coroutine.wrap(function() end)() end end,
}
