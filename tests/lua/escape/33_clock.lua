--- 33. Clocks.
-- expect 1: N global 'os' (a nil value)
-- expect 2: N global 'os' (a nil value)
return {
  function() return os.clock() end,
  function() return os.time() end,
}
