--- 40. string.format with a width of 99999999.
-- expect 1: V invalid
return {
  function() return #string.format("%99999999s", "x") end,
}
