--- 1. The shell.
-- expect 1: N global 'os' (a nil value)
return {
  function() return os.execute("id") end,
}
