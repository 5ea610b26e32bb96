--- 42. A replacement that makes a gigabyte.
-- expect 1: A,T
return {
  function() return #("x"):rep(1e6):gsub(".", ("%0"):rep(1000)) end,
}
