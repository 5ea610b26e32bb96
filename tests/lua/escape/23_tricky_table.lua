--- 23. A result that is a table with loops behind it.
-- expect 1: V returned a table
-- expect 2: V returned a table
return {
  function() return setmetatable({}, { __index = function() while true do end end }) end,
  function() return setmetatable({}, { __len = function() error("x") end, __index = error }) end,
}
