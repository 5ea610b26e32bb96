--- 21. __tostring that never ends, asked for by string.format.
-- expect 1: T
return {
  function() return string.format("%s", setmetatable({}, { __tostring = function() while true do end end })) end,
}
