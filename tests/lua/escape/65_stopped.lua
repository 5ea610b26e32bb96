--- 65. The worker stops itself (here: is stopped by the test): killed at the deadline.
-- special: stopped
-- expect 1: T
return {
  function() while true do end end,
}
