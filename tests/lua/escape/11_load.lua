--- 11. Chunks from text and files.
-- expect 1: N global 'load' (a nil value)
-- expect 2: N global 'loadfile' (a nil value)
-- expect 3: N global 'dofile' (a nil value)
return {
  function() return load("return 1", "x", "b") end,
  function() return loadfile("rewards/plain.lua") end,
  function() return dofile("rewards/plain.lua") end,
}
