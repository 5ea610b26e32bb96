--- 39. table.concat over nothing.
-- expect 1: V invalid value
return {
  function() return table.concat({}, "x", 1, 1e9) end,
}
