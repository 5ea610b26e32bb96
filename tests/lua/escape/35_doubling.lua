--- 35. A string that doubles.
-- expect 1: A
return {
  function(completion, row)
    local s = "x"
    for _ = 1, 60 do s = s .. s end
    return #s
  end,
}
