--- 15. Writing to the libraries.
-- expect 1: V cannot be set
-- expect 2: V cannot be set
-- expect 3: V protected
-- expect 4: V cannot be set
-- expect 5: V cannot be set
-- expect 6: V is the program's own
return {
  function() string.find = nil end,
  function() math.floor = function() return 7 end end,
  function() rawset(string, "find", nil) end,
  function() require("medrl.re").compile = nil end,
  function() require("medrl.data").get = nil end,
  function() return require("medrl.worker") end,
  next = function() return ("x"):find("x") == 1 and math.floor(1.5) == 1 and require("medrl.re").compile and 1 end,
}
