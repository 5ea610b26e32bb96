--- 63. CVE-2022-24834: deep and sparse arrays.
-- expect 1: V 64 levels
-- expect 2: V
-- expect 3: V nested deeper
return {
  function() return require("medrl.json").decode(("["):rep(1001) .. ("]"):rep(1001)) end,
  function() return require("medrl.json").encode({ [2 ^ 31] = 1 }) end,
  function(completion, row)
    local t = {}
    for _ = 1, 1001 do t = { t } end
    return require("medrl.json").encode(t)
  end,
}
