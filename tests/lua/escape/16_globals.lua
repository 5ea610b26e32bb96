--- 16. Globals that the next sample would see.
-- expect 1: V expected
-- expect 2: V expected
-- expect 3: OK0
-- expect 4: OK0
-- expect 5: OK0
-- expect 6: OK0
loaded = 3 -- what the file sets when it is loaded stays
return {
  function() setmetatable(_G, {}) end,
  function() rawset(_G, "leaked", 7) end,
  function(completion, row)
    leaked = 7
    tostring, math = nil, nil
    return 1
  end,
  function() return leaked == nil and tostring(7) == "7" and math.floor(1.5) == 1 and loaded == 3 and 1 end,
  function(completion, row)
    loaded = 4
    return 1
  end,
  function() return loaded == 3 and 1 end,
  next = function() return leaked == nil and loaded == 3 and 1 end,
}
