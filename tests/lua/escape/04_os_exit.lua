--- 4. Ending the process, changing files.
-- expect 1: N global 'os' (a nil value)
-- expect 2: N global 'os' (a nil value)
-- expect 3: N global 'os' (a nil value)
-- expect 4: N global 'os' (a nil value)
return {
  function() os.exit(0) end,
  function() os.remove("rewards/plain.lua") end,
  function() os.rename("a", "b") end,
  function() return os.tmpname() end,
}
