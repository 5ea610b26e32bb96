--- 44. string.buffer.
-- expect 1: N was not found
return {
  function() return require("string.buffer").new(1e9) end,
}
