--- 24. Results that are no numbers.
-- expect 1: V returned a string
-- expect 2: NONE
-- expect 3: V returned a boolean
-- expect 4: V returned a table
-- expect 5: V returned a function
return {
  function() return "1" end,
  function() return nil end,
  function() return true end,
  function() return { 1 } end,
  function() return print end,
}
