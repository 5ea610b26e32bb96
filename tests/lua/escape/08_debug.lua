--- 8. The debug library.
-- expect 1: N global 'debug' (a nil value)
-- expect 2: N global 'debug' (a nil value)
-- expect 3: N global 'debug' (a nil value)
-- expect 4: N global 'debug' (a nil value)
return {
  function() return debug.getregistry() end,
  function() return debug.getupvalue(print, 1) end,
  function() debug.setmetatable("", {}) end,
  function() debug.sethook(print, "l") end,
}
