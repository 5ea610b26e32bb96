--- 32. The random numbers of the host.
-- expect 1: V use medrl.rng
-- expect 2: V use medrl.rng
-- expect 3: OK0
return {
  function() math.randomseed(1) end,
  function() return math.random() end,
  function(completion, row)
    local r = require("medrl.rng")
    return r.uniform(1, 2) == r.uniform(1, 2) and 1
  end,
}
