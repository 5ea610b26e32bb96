--- 9. Bytecode, made and loaded here.
-- expect 1: N global 'loadstring' (a nil value)
-- expect 2: N field 'dump' (a nil value)
-- expect 3: N method 'dump' (a nil value)
return {
  function() return loadstring("\27LJ\2") end,
  function() return loadstring(string.dump(function() end)) end,
  function() return ("x"):dump() end,
}
