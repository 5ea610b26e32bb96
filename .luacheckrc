-- Scripts run in medrl's sandbox, which is a part of LuaJIT's library; make*.lua are run by hand with luajit itself.
std = {
  read_globals = {
    "assert", "error", "getmetatable", "ipairs", "next", "pairs", "pcall", "print", "rawequal", "rawget", "rawset", "require", "select",
    "setmetatable", "tonumber", "tostring", "type", "unpack", "xpcall",
    string = { fields = { "byte", "char", "find", "format", "gmatch", "gsub", "len", "lower", "match", "rep", "reverse", "sub", "upper" } },
    table = { fields = { "concat", "insert", "maxn", "remove", "sort" } },
    math = { other_fields = true },
    bit = { other_fields = true },
  },
}
max_line_length = 120
exclude_files = { "build*", "lua/medrl/medrl.d.lua", "tests/lua/escape", "tests/lua/bad" }
files["**/make*.lua"] = { std = "luajit", max_line_length = 150 }
