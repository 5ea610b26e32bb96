--- 5. The foreign function interface.
-- expect 1: N module "ffi" was not found
-- expect 2: N global 'package' (a nil value)
-- expect 3: N global 'package' (a nil value)
return {
  function() return require("ffi") end,
  function() return package.loaded.ffi end,
  function() return package.preload.ffi end,
}
