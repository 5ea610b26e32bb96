--- 19. The collector; CVE-2025-49844 needs it and a parser.
-- expect 1: N global 'collectgarbage' (a nil value)
-- expect 2: N global 'loadstring' (a nil value)
return {
  function() collectgarbage("stop") end,
  function(completion, row)
    local s = ("x"):rep(1e5)
    local f = loadstring("return '" .. s .. "'")
    collectgarbage()
    return f
  end,
}
