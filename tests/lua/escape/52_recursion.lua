--- 52. Recursion without end.
-- expect 1: V stack overflow
-- expect 2: V
-- expect 3: V loop in gettable
return {
  function(completion, row)
    local function f() return 1 + f() end
    return f()
  end,
  function(completion, row)
    local t = setmetatable({}, { __index = function(t, k) return t[k] end })
    return t.x
  end,
  function(completion, row)
    local t = {}
    t.__index = setmetatable(t, t)
    return t.x
  end,
}
