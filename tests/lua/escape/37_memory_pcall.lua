--- 37. The same, caught each time (what fails outside of pcall is an error).
-- expect 1: A,T
return {
  function(completion, row)
    while true do
      pcall(function()
        local t = {}
        while true do t[#t + 1] = t end
      end)
    end
  end,
}
