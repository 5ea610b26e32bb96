--- 7. The compiler's own library.
-- expect 1: N module "jit.util" was not found
-- expect 2: N global 'jit' (a nil value)
-- expect 3: N global 'jit' (a nil value)
return {
  function() return require("jit.util") end,
  function() jit.on() end,
  function() jit.opt.start("hotloop=1") end,
}
