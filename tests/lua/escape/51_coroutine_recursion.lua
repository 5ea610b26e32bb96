--- 51. LuaJIT#619: nested coroutines overflow the C stack; there are none.
-- expect 1: N global 'coroutine' (a nil value)
return {
  function(completion, row)
    local function f() coroutine.wrap(f)() end
    f()
  end,
}
