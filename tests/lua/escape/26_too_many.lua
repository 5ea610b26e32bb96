--- 26. More values than one, or none.
-- expect 1: V score() returned 2 values, want 1
-- expect 2: V score() returned 3 values, want 1
-- expect 3: NONE
return {
  function() return 1, 2 end,
  function() return nil, nil, 3 end,
  function() return end,
}
