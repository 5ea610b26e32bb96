--- 13. A search of everything that can be reached for a function that is not on the list.
-- expect 1: OK0
return {
  function(completion, row)
    -- Every table and metatable that is reached from the names below, by reading names that any library of Lua, LuaJIT or
    -- this program uses (a read-only table shows no keys to pairs), must hold functions of the list only.
    local allowed = {}
    for name in (
      "assert error getmetatable ipairs next pairs pcall rawequal rawget rawset select setmetatable tonumber tostring type " ..
      "unpack xpcall print require byte char find format gmatch gsub len lower match rep reverse sub upper concat foreach " ..
      "foreachi getn insert maxn move remove sort abs acos asin atan atan2 ceil cos cosh deg exp floor fmod frexp ldexp log " ..
      "log10 max min mod modf pow rad random randomseed sin sinh sqrt tan tanh arshift band bnot bor bswap bxor lshift rol " ..
      "ror rshift tobit tohex compile test encode decode array is_array info warn debug uniform pcg64 open place where " ..
      "strip lower ulen is_digit count last_between after_last before_first pack"):gmatch("%S+") do allowed[name] = true end
    local names = {}
    for name in (
      "_G _ENV _LOADED _PRELOAD _R package loaded preload loadlib loaders searchers cpath path searchpath seeall module io " ..
      "stdin stdout stderr popen lines read write close output input tmpfile os execute exit getenv remove rename tmpname " ..
      "clock date time difftime setlocale debug getregistry getinfo getlocal getupvalue setupvalue upvalueid upvaluejoin " ..
      "sethook gethook getuservalue setuservalue traceback jit ffi util opt on off flush status attach start cdef load C new " ..
      "cast metatype gc typeof sizeof string table math bit coroutine create resume running wrap yield isyieldable load " ..
      "loadstring loadfile dofile dump newproxy collectgarbage gcinfo getfenv setfenv buffer clear isempty __index " ..
      "__newindex __metatable __gc __call __tostring __len __env"):gmatch("%S+") do names[#names + 1] = name end
    for name in pairs(allowed) do names[#names + 1] = name end
    local seen, bad = {}, {}
    local function walk(value, path, depth)
      if type(value) == "function" then
        if not allowed[path:match("([^.]*)$")] then bad[#bad + 1] = path end
      elseif type(value) == "table" and not seen[value] and depth < 6 then
        seen[value] = true
        for _, name in ipairs(names) do
          local inner = value[name]
          if inner ~= nil then walk(inner, path .. "." .. name, depth + 1) end
        end
        for key, inner in next, value do walk(inner, path .. "." .. tostring(key), depth + 1) end
        walk(getmetatable(value), path .. ".metatable", depth + 1)
      end
    end
    local roots = { string = string, table = table, math = math, bit = bit, text = getmetatable("") }
    for name, root in pairs(roots) do walk(root, name, 0) end
    for _, name in ipairs { "re", "text", "json", "log", "rng", "files", "host" } do
      walk(require("medrl." .. name), name, 0)
    end
    local s = "x"
    for _, name in ipairs(names) do
      if s[name] ~= nil and string[name] ~= s[name] then bad[#bad + 1] = '"".' .. name end
    end
    local gone = { _G, os, io, debug, package, jit, ffi, coroutine, load, loadstring, loadfile, dofile, module, newproxy,
      collectgarbage, gcinfo, getfenv, setfenv, arg }
    if next(gone) ~= nil then bad[#bad + 1] = "a global" end
    assert(#bad == 0, table.concat(bad, " "))
    return 1
  end,
}
