--- 43. Tables made large at once.
-- expect 1: N was not found
-- expect 2: A
-- expect 3: OK0
return {
  function() return require("table.new")(1e9, 0) end,
  function(completion, row)
    local t = {}
    for i = 1, 2 ^ 26 do t[i] = i end
    return #t
  end,
  function(completion, row)
    local t = {}
    t[2 ^ 26] = 1
    return t[2 ^ 26]
  end,
}
