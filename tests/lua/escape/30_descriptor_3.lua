--- 30. The socket to the trainer; the test also looks at the worker's descriptors and at how it is locked in.
-- special: locked
-- expect 1: N global 'io' (a nil value)
-- expect 2: V not a data file
-- expect 3: V no such file
-- expect 4: V not a data file
return {
  function() io.stdout:write("x") end,
  function() return require("medrl.files").open("/proc/self/fd/3") end,
  function() return require("medrl.files").open("/proc/self/fd/3.jsonl") end,
  function() return require("medrl.files").open("/dev/stdin") end,
}
