--- 20. Addresses in text.
-- expect 1: OK0
-- expect 2: V %p is not there
-- expect 3: V %p is not there
-- expect 4: V number expected, got table
-- expect 5: V attempt to concatenate
return {
  function(completion, row)
    local t, f = {}, function() end
    for _, v in ipairs { tostring(print), tostring(t), tostring(f), tostring(require("medrl.json").null), ("%s"):format(t),
        ("%5s %s"):format("x", print), ("%s %s %s %s %s"):format(1, 2, 3, 4, f), tostring(require("medrl.re").compile("a")),
        tostring(string.find), tostring(pairs({})) } do
      assert(not v:find("0x") and not v:find("#"), v)
    end
    assert(tostring(t) == "table" and tostring(f) == "function")
    assert(tostring(setmetatable({}, { __tostring = function() return "table: mine" end })) == "table: mine")
    assert(("%5.1f|%-3s|%q|%%p|%s"):format(1.5, "a", "b", nil) == "  1.5|a  |\"b\"|%p|nil")
    return 1
  end,
  function() return ("%p"):format({}) end,
  function() return string.format("%-20p", print) end,
  function() return ("%d"):format({}) end,
  function() return "" .. {} end,
}
