--- 66. The trainer is killed while a call runs: no worker is left after a second.
-- special: orphans
-- expect 1: T
return {
  function() while true do end end,
}
