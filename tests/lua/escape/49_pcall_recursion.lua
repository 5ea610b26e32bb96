--- 49. pcall of itself, for ever.
-- expect 1: T
return {
  function(completion, row)
    local function f() pcall(f) end
    while true do f() end
  end,
}
