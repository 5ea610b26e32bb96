--- 2. Processes and files by io.
-- expect 1: N global 'io' (a nil value)
-- expect 2: N global 'io' (a nil value)
return {
  function() return io.popen("id") end,
  function() return io.open("/etc/passwd") end,
}
