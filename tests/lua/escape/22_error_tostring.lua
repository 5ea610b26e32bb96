--- 22. An error object whose __tostring never ends.
-- expect 1: V the error object is a table
return {
  function() error(setmetatable({}, { __tostring = function() while true do end end })) end,
}
