--- 34. One string of a gigabyte.
-- expect 1: A
return {
  function() return #("x"):rep(1e9) end,
}
