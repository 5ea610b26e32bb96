--- 18. A finalizer of a table: Lua 5.1 has none.
-- expect 1: OK0
return {
  function(completion, row)
    for _ = 1, 1000 do setmetatable({}, { __gc = function() while true do end end }) end
    local t = {}
    for i = 1, 1e4 do t[i % 10] = { i } end -- collections happen
    return 1
  end,
  next = function() return 1 end,
}
