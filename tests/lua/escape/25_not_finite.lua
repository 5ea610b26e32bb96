--- 25. Numbers that are not finite.
-- expect 1: V returned NaN
-- expect 2: V infinite
-- expect 3: V infinite
-- expect 4: V infinite
-- expect 5: OK0
-- expect 6: ZERO
return {
  function() return 0 / 0 end,
  function() return math.huge end,
  function() return -math.huge end,
  function() return 1e309 end,
  function() return 1 / -0.0 == -math.huge and 1 end,
  function() return -0.0 end,
}
