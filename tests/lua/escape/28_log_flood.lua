--- 28. A gigabyte to the log.
-- special: log
-- expect 1: OK0
-- expect 2: A
return {
  function(completion, row)
    local line = ("y"):rep(10000)
    for _ = 1, 1e5 do print(line) end
    return 1
  end,
  function() print(("y"):rep(1e9)) end,
}
