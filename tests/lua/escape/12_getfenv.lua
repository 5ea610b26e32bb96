--- 12. Environments.
-- expect 1: N global 'getfenv' (a nil value)
-- expect 2: N global 'getfenv' (a nil value)
-- expect 3: N global 'setfenv' (a nil value)
return {
  function() return getfenv(0) end,
  function() return getfenv(2) end,
  function() setfenv(1, _G or {}) end,
}
