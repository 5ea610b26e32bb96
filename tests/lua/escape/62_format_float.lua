--- 62. CVE-2024-25176: widths of numbers.
-- expect 1: OK0
-- expect 2: V
-- expect 3: V
-- expect 4: OK0
return {
  function() return #string.format("%.99f", 1e308) > 300 and 1 end,
  function() return #string.format("%.100f", 1e308) end,
  function() return #string.format("%199d", 1) end,
  function() return #string.format("%99.99f", -1e308) > 300 and 1 end,
}
