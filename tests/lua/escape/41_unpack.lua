--- 41. CVE-2025-46817: ranges that wrap around.
-- expect 1: V too many results to unpack
-- expect 2: NONE,V
-- expect 3: V
return {
  function() return unpack({}, 0, 2 ^ 31 - 1) end,
  function() return unpack({}, -2 ^ 31, 2 ^ 31) end,
  function() return (unpack({}, 1, 1e8)) end,
}
