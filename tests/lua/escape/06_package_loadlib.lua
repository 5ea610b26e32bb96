--- 6. CVE-2022-0543: a library function through package.loadlib.
-- expect 1: N global 'package' (a nil value)
-- expect 2: N was not found
return {
  function() return package.loadlib("libc.so.6", "system")("id") end,
  function() return require("package") end,
}
