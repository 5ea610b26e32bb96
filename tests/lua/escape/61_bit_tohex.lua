--- 61. CVE-2024-31449: bit.tohex with the smallest int.
-- expect 1: OK0
return {
  function() return #bit.tohex(1, -2 ^ 31) <= 8 and 1 end,
}
