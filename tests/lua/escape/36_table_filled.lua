--- 36. A table that grows for ever.
-- expect 1: A
return {
  function(completion, row)
    local t = {}
    while true do t[#t + 1] = t end
  end,
}
