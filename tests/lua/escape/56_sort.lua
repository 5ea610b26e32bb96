--- 56. A comparator that always says true.
-- expect 1: V invalid order function
return {
  function() table.sort({ 3, 1, 2, 5, 4, 9, 8, 7, 6, 0, 1 }, function() return true end) end,
}
