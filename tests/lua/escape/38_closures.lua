--- 38. Closures and coroutines without end.
-- expect 1: A
-- expect 2: N global 'coroutine' (a nil value)
return {
  function(completion, row)
    local t = {}
    for i = 1, 1e8 do t[i] = function() return i end end
  end,
  function(completion, row)
    local t = {}
    for i = 1, 1e7 do t[i] = coroutine.create(print) end
  end,
}
