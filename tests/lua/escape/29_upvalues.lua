--- 29. What the host's closures hold.
-- expect 1: N global 'arg' (a nil value)
-- expect 2: N global 'debug' (a nil value)
-- expect 3: N global 'getfenv' (a nil value)
return {
  function() return arg[0] end,
  function() return debug.getupvalue(string.format, 1) end,
  function() return getfenv(require) end,
}
