--- 14. CVE-2025-46818: the metatable that all strings share.
-- expect 1: N attempt to index
-- expect 2: V protected
-- expect 3: V expected
return {
  function() getmetatable("").__index = function() return evil end end,
  function() setmetatable(string, { __index = evil }) end,
  function() setmetatable("", {}) end,
  next = function() return ("x"):len() end,
}
