--- The filters, tests, methods and global functions of chat templates, for medrl.jinja. What of Python or Jinja is not
--- here is an error that names it.
local masked = require "medrl.masked"
local text = require "medrl.text"

local bytes, is_str, concat, data = masked.bytes, masked.is, masked.concat, masked.data

return function(R)

local fail, kind, number, to_int, truth = R.fail, R.kind, R.number, R.to_int, R.truth
local items_of, type_name, undef, lookup = R.items_of, R.type_name, R.undef, R.lookup

local function add(list, x)
  list.n = list.n + 1
  list[list.n] = x
end

local function want_str(x, what)
  if not is_str(x) then
    R.defined(x)
    fail("%s wants a str, got a %s", what, type_name(x))
  end
  return x
end

local function want_int(x, what)
  local i = to_int(x)
  if not i then
    R.defined(x)
    fail("%s wants a whole number, got a %s", what, type_name(x))
  end
  return i
end

local function is_none(x) return x == nil or kind(x) == "none" end

local function list_of(items, n) return R.list(items, n) end

-- Methods.

local str_methods, dict_methods, list_methods = {}, {}, {}

local function strip(left, right)
  return function(x, a)
    return masked.strip(x, not is_none(a[1]) and want_str(a[1], "strip") or nil, left, right)
  end
end
local function split(f, what)
  return function(x, a)
    return list_of(f(x, not is_none(a[1]) and want_str(a[1], what) or nil, a[2] ~= nil and want_int(a[2], what) or -1))
  end
end
local function affix(at_end, what)
  return function(x, a)
    local s = bytes(x)
    local list = kind(a[1]) == "tuple" and a[1] or { want_str(a[1], what), n = 1 }
    for i = 1, list.n do
      local part = bytes(want_str(list[i], what))
      if #part <= #s and (at_end and s:sub(#s - #part + 1) or s:sub(1, #part)) == part then return true end
    end
    return false
  end
end
local function remove_affix(at_end)
  return function(x, a)
    local s, part = bytes(x), bytes(want_str(a[1], "removeprefix"))
    if part == "" or #part > #s then return x end
    if at_end then return s:sub(#s - #part + 1) == part and masked.sub(x, 1, #s - #part) or x end
    return s:sub(1, #part) == part and masked.sub(x, #part + 1, #s) or x
  end
end
local function place(x, at) -- a byte as an index
  return at and masked.len(masked.sub(x, 1, at - 1)) or -1
end
local function all_chars(f)
  return function(x)
    local list, n = masked.chars((bytes(x)))
    for i = 1, n do
      if not f(list[i]) then return false end
    end
    return n > 0
  end
end
local function ascii_class(pattern, what)
  return all_chars(function(c)
    if #c > 1 then fail("%s of text outside of ASCII is not supported", what) end
    return c:find(pattern) ~= nil
  end)
end
local function partition(last)
  return function(x, a)
    local sep = want_str(a[1], "partition")
    local s, mark = bytes(x), bytes(sep)
    if mark == "" then fail("partition: the separator is empty") end
    local at = last and masked.find_last(x, sep) or not last and s:find(mark, 1, true)
    if not at then return last and R.tuple({ "", "", x }, 3) or R.tuple({ x, "", "" }, 3) end
    return R.tuple({ masked.sub(x, 1, at - 1), sep, masked.sub(x, at + #mark, #s) }, 3)
  end
end

--- "{} {name}".format(...), without format specifications.
local function format(x, args, named)
  local s = bytes(x)
  local out, i, auto = { n = 0 }, 1, 0
  while i <= #s do
    local at = s:find("[{}]", i)
    add(out, masked.sub(x, i, (at or #s + 1) - 1))
    if not at then break end
    if s:sub(at, at) == s:sub(at + 1, at + 1) then
      add(out, masked.sub(x, at, at))
      i = at + 2
    else
      local name = s:match("^{([%w_]*)}", at)
      if not name then fail("format: want {}, {0} or {name} without more in the braces") end
      local got
      if name == "" then
        auto = auto + 1
        got = args[auto]
      elseif name:find("^%d+$") then
        got = args[tonumber(name) + 1]
      else
        for k = 1, #named, 2 do
          if named[k] == name then got = named[k + 1] end
        end
      end
      if got == nil then fail("format: there is no value for {%s}", name) end
      add(out, R.str(got))
      i = at + #name + 2
    end
  end
  return concat(out, out.n)
end

local function join(sep, list)
  local parts, n = {}, 0
  for i = 1, list.n do
    if i > 1 then
      n = n + 1
      parts[n] = sep
    end
    n = n + 1
    parts[n] = list[i]
  end
  return concat(parts, n)
end

local implemented = {
  strip = { strip(true, true), "chars" }, lstrip = { strip(true, false), "chars" },
  rstrip = { strip(false, true), "chars" },
  split = { split(masked.split, "split"), "sep", "maxsplit" },
  rsplit = { split(masked.rsplit, "rsplit"), "sep", "maxsplit" },
  splitlines = { function(x) return list_of(masked.splitlines(x)) end },
  startswith = { affix(false, "startswith"), "prefix" }, endswith = { affix(true, "endswith"), "suffix" },
  removeprefix = { remove_affix(false), "prefix" }, removesuffix = { remove_affix(true), "suffix" },
  replace = { function(x, a)
    return masked.replace(x, want_str(a[1], "replace"), want_str(a[2], "replace"),
      a[3] ~= nil and want_int(a[3], "replace") or -1)
  end, "old", "new", "count" },
  upper = { masked.upper }, lower = { masked.lower }, title = { masked.title }, capitalize = { masked.capitalize },
  isupper = { function(x) return masked.has_case(x, true) end },
  islower = { function(x) return masked.has_case(x, false) end },
  isspace = { all_chars(masked.is_space) }, isdigit = { function(x) return text.is_digit((bytes(x))) end },
  isalpha = { ascii_class("%a", "isalpha") }, isalnum = { ascii_class("%w", "isalnum") },
  find = { function(x, a)
    return place(x, bytes(x):find((bytes(want_str(a[1], "find"))), 1, true))
  end, "sub" },
  rfind = { function(x, a) return place(x, masked.find_last(x, want_str(a[1], "rfind"))) end, "sub" },
  index = { function(x, a)
    local at = place(x, bytes(x):find((bytes(want_str(a[1], "index"))), 1, true))
    if at < 0 then fail("index: the part is not there") end
    return at
  end, "sub" },
  count = { function(x, a)
    if bytes(want_str(a[1], "count")) == "" then return masked.len(x) + 1 end
    return select(2, masked.split(x, a[1], -1)) - 1
  end, "sub" },
  join = { function(x, a)
    local list = items_of(R.defined(a[1]), "join")
    for i = 1, list.n do want_str(list[i], "join") end
    return join(x, list)
  end, "iterable" },
  partition = { partition(false), "sep" }, rpartition = { partition(true), "sep" },
}
for _, name in ipairs { "casefold", "center", "encode", "expandtabs", "format", "format_map", "isascii", "isdecimal",
                        "isidentifier", "isnumeric", "isprintable", "istitle", "ljust", "maketrans", "rindex", "rjust",
                        "swapcase", "translate", "zfill" } do str_methods[name] = false end
for name in pairs(implemented) do str_methods[name] = true end
for _, name in ipairs { "clear", "pop", "popitem", "setdefault", "update" } do dict_methods[name] = "changes" end
for _, name in ipairs { "get", "items", "keys", "values", "copy" } do dict_methods[name] = true end
dict_methods.fromkeys = false
for _, name in ipairs { "append", "clear", "extend", "insert", "pop", "remove", "reverse", "sort" } do
  list_methods[name] = "changes"
end
for _, name in ipairs { "count", "index", "copy" } do list_methods[name] = true end
R.methods = { str = str_methods, dict = dict_methods, list = list_methods, tuple = { count = true, index = true },
              gen = { send = false, throw = false, close = false } }

local function view(d, what) return { k = "view", of = d, what = what } end

local function dict_method(d, name, args, named)
  if name == "get" then
    local a = R.bind("get", { "key", "default" }, args, named)
    local got = lookup(d, a[1] ~= nil and a[1] or fail("get wants a key"))
    if got == nil then got = a[2] end
    if got == nil then got = R.none end
    return got
  end
  R.bind(name, {}, args, named)
  if name ~= "copy" then return view(d, name) end
  local copy = R.empty_dict()
  for i = 1, d.n do R.set(copy, d.keys[i], d.values[i]) end
  return copy
end

local function list_method(x, name, args, named)
  local a = R.bind(name, { "value" }, args, named)
  if name == "copy" then
    local copy = { k = x.k, n = x.n }
    for i = 1, x.n do copy[i] = x[i] end
    return copy
  end
  local n = 0
  for i = 1, x.n do
    if R.equal(x[i], a[1]) then
      if name == "index" then return i - 1 end
      n = n + 1
    end
  end
  if name == "index" then fail("index: the value is not in the list") end
  return n
end

local function loop_method(L, name, args)
  if name == "cycle" then
    if #args == 0 then fail("loop.cycle wants values") end
    return args[(L.i - 1) % #args + 1]
  end
  local now = R.tuple(args, #args)
  local same = L.seen ~= nil and R.equal(L.seen, now)
  L.seen = now
  return not same
end

function R.call_method(x, name, args, named)
  local k = kind(x)
  if k == "loop" then return loop_method(x, name, args) end
  if R.methods[k][name] == false and name ~= "format" then
    fail("method \"%s\" of a %s is not supported", name, type_name(x))
  end
  if k == "dict" then return dict_method(x, name, args, named) end
  if k == "list" or k == "tuple" then return list_method(x, name, args, named) end
  if x.safe then fail("method \"%s\" of a |safe text is not supported; call it before |safe", name) end
  if name == "format" then return format(x, args, named) end
  local m = implemented[name]
  local params = { unpack(m, 2) }
  local a = R.bind(name, params, args, named)
  if params[1] and params[1] ~= "chars" and name:find("split") == nil and a[1] == nil then
    fail("%s wants an argument", name)
  end
  return m[1](x, a)
end

-- JSON.

local function json_key(key, ascii)
  if is_str(key) then return masked.json(key, ascii) end
  local k = kind(key)
  if k == "none" then return data '"null"' end
  if k == "bool" then return data(key and '"true"' or '"false"') end
  return concat({ data '"', R.str(key), data '"' }, 3)
end

local function sorted_keys(d)
  local at = {}
  for i = 1, d.n do at[i] = i end
  table.sort(at, function(a, b) return R.order(d.keys[a], d.keys[b], "<") < 0 end)
  return at
end

local function json_put(x, o, out, level)
  if level > 60 then fail("tojson: a value is nested too deep") end
  local k = kind(x)
  if k == "str" then return add(out, masked.json(x, o.ascii)) end
  if k == "bool" then return add(out, data(x and "true" or "false")) end
  if k == "none" then return add(out, data "null") end
  if k == "int" then return add(out, R.str(x)) end
  if k == "float" then
    local s = R.float_text(x.x)
    return add(out, data(s == "nan" and "NaN" or s == "inf" and "Infinity" or s == "-inf" and "-Infinity" or s))
  end
  local is_dict = k == "dict"
  if not is_dict and ((k ~= "list" and k ~= "tuple") or x.range) then
    R.defined(x)
    fail("tojson: a %s has no JSON form", type_name(x))
  end
  local open, close = is_dict and "{" or "[", is_dict and "}" or "]"
  if x.n == 0 then return add(out, data(open .. close)) end
  local before = o.indent and "\n" .. o.indent:rep(level + 1) or ""
  local at = is_dict and o.sorted and sorted_keys(x)
  add(out, data(open))
  for i = 1, x.n do
    local j = at and at[i] or i
    if i > 1 then add(out, o.item) end
    add(out, data(before))
    if is_dict then
      add(out, json_key(x.keys[j], o.ascii))
      add(out, o.pair)
      json_put(x.values[j], o, out, level + 1)
    else
      json_put(x[j], o, out, level + 1)
    end
  end
  add(out, data((o.indent and "\n" .. o.indent:rep(level) or "") .. close))
end

--- Arguments as transformers' tojson has them.
local function tojson(x, args, named)
  local a = R.bind("tojson", { "ensure_ascii", "indent", "separators", "sort_keys" }, args, named)
  local o = { ascii = a[1] ~= nil and truth(a[1]), sorted = a[4] ~= nil and truth(a[4]) }
  if not is_none(a[2]) then
    o.indent = is_str(a[2]) and bytes(a[2]) or (" "):rep(math.max(0, want_int(a[2], "tojson: indent")))
  end
  o.item, o.pair = data(o.indent and "," or ", "), data ": "
  if not is_none(a[3]) then
    if items_of(a[3], "separators").n ~= 2 then fail("tojson: separators is no pair") end
    o.item, o.pair = want_str(a[3][1], "separators"), want_str(a[3][2], "separators")
  end
  local out = { n = 0 }
  json_put(x, o, out, 0)
  return concat(out, out.n)
end

-- What several filters share.

--- attribute="a.b": nil when it is not given.
local function getter(attribute, default)
  if is_none(attribute) then return nil end
  local path, n = {}, 0
  if to_int(attribute) then
    path, n = { to_int(attribute) }, 1
  else
    for part in (bytes(want_str(attribute, "attribute")) .. "."):gmatch("([^%.]*)%.") do
      n = n + 1
      path[n] = part:find("^%d+$") and tonumber(part) or part
    end
  end
  return function(x)
    for i = 1, n do
      x = R.item(x, path[i])
      if default ~= nil and kind(x) == "undef" then x = default end
    end
    return x
  end
end

local function plain_case(x) return is_str(x) and masked.lower(x) or x end

--- A stable sort of list[1..n] by key.
local function sort(list, n, key, backwards)
  local rows = {}
  for i = 1, n do rows[i] = { key(list[i]), i } end
  table.sort(rows, function(a, b)
    local c = R.order(a[1], b[1], "<")
    if c == 0 then return a[2] < b[2] end
    if backwards then return c > 0 end
    return c < 0
  end)
  local sorted = {}
  for i = 1, n do sorted[i] = list[rows[i][2]] end
  return R.list(sorted, n)
end

local function keyed(attribute, case_sensitive)
  local get = getter(attribute)
  return function(x)
    if get then x = get(x) end
    return case_sensitive and x or not case_sensitive and plain_case(x) or x
  end
end

local function flag(x) return x ~= nil and truth(x) end

local function pick(x, what, get, args, first, wanted)
  local name = args[first]
  local more = {}
  for i = first + 1, #args do more[i - first] = args[i] end
  if name ~= nil then want_str(name, what) end
  local list, out = items_of(x, what), { n = 0 }
  for i = 1, list.n do
    local value = get and get(list[i]) or not get and list[i]
    local ok
    if name ~= nil then ok = R.test(bytes(name), value, more) else ok = truth(value) end
    if ok == wanted then add(out, list[i]) end
  end
  return R.gen(out, out.n)
end

local function no_names(what, named)
  if #named > 0 then fail("%s has no argument \"%s\"", what, named[1]) end
end

local function extreme(what, sign)
  return function(x, args, named)
    local a = R.bind(what, { "case_sensitive", "attribute" }, args, named)
    local list, key = items_of(x, what), keyed(a[2], flag(a[1]))
    if list.n == 0 then return undef(what .. ": there are no items") end
    local best = list[1]
    for i = 2, list.n do
      if R.order(key(list[i]), key(best), "<") * sign > 0 then best = list[i] end
    end
    return best
  end
end

--- Python's round(): ties of the exact value go to even.
local function round(x, digits, how)
  local v, is_float = number(x)
  if not v then
    R.defined(x)
    fail("round wants a number, got a %s", type_name(x))
  end
  if digits < 0 or digits > 15 then fail("round: precision is %d, want 0 to 15", digits) end
  if how == "common" then
    if not is_float then return v end
    local whole, rest = ("%.40f"):format(v):match("^(.-%." .. ("%d"):rep(digits) .. ")(%d+)$")
    if not rest:find("^50*$") then return R.float(tonumber(("%." .. digits .. "f"):format(v))) end
    local last = tonumber(whole:match("(%d)%.?$"))
    local down = tonumber(whole)
    if last % 2 == 0 then return R.float(down) end
    return R.float(tonumber(("%." .. digits .. "f"):format(down + (v < 0 and -1 or 1) / 10 ^ digits)))
  end
  local f = how == "ceil" and math.ceil or how == "floor" and math.floor or fail("round: method \"%s\"", how)
  return R.float(f(v * 10 ^ digits) / 10 ^ digits)
end

local function parse_number(x)
  local s = bytes(masked.strip(x, nil, true, true))
  local bare = s:gsub("(%d)_(%d)", "%1%2")
  if bare:find("^[+-]?%d+$") then return tonumber((bare:gsub("^%+", ""))), true end
  if bare:find("^[+-]?%d*%.?%d*[eE]?[+-]?%d*$") and bare:find("%d") then
    return tonumber((bare:gsub("^%+", ""))), false
  end
  return nil
end

-- Filters.

local F = {}

function F.abs(x)
  local v, is_float = number(R.defined(x))
  if not v then fail("abs wants a number, got a %s", type_name(x)) end
  return is_float and R.float(math.abs(v)) or math.abs(v)
end
function F.capitalize(x) return masked.capitalize(R.str(x)) end
function F.default(x, args, named)
  local a = R.bind("default", { "default_value", "boolean" }, args, named)
  if kind(x) == "undef" or (flag(a[2]) and not truth(x)) then
    if a[1] == nil then return "" end
    return a[1]
  end
  return x
end
F.d = F.default
function F.dictsort(x, args, named)
  local a = R.bind("dictsort", { "case_sensitive", "by", "reverse" }, args, named)
  if kind(x) ~= "dict" then fail("dictsort wants a dict, got a %s", type_name(x)) end
  local by = a[2] == nil and "key" or bytes(a[2])
  if by ~= "key" and by ~= "value" then fail("dictsort: by is neither \"key\" nor \"value\"") end
  local rows = items_of(view(x, "items"), "dictsort")
  return sort(rows, rows.n, function(row)
    local key = row[by == "key" and 1 or 2]
    return flag(a[1]) and key or plain_case(key)
  end, flag(a[3]))
end
function F.first(x)
  local list = items_of(x, "first")
  if list.n == 0 then return undef("first: there are no items") end
  return list[1]
end
function F.last(x)
  if kind(x) == "gen" then fail("last: a generator has no end to look at; use |list first") end
  local list = items_of(x, "last")
  if list.n == 0 then return undef("last: there are no items") end
  return list[list.n]
end
function F.float(x, args, named)
  local a = R.bind("float", { "default" }, args, named)
  local v = number(R.defined(x))
  if not v and is_str(x) then v = parse_number(x) end
  if v then return R.float(v) end
  if a[1] == nil then return R.float(0) end
  return a[1]
end
function F.int(x, args, named)
  local a = R.bind("int", { "default", "base" }, args, named)
  if a[2] ~= nil and to_int(a[2]) ~= 10 then fail("int: a base other than 10 is not supported") end
  local v = number(R.defined(x))
  if not v and is_str(x) then v = parse_number(x) end
  if v and v == v and v ~= math.huge and v ~= -math.huge then
    return R.int(v < 0 and math.ceil(v) or math.floor(v))
  end
  if a[1] == nil then return 0 end
  return a[1]
end
function F.format(x, args, named)
  no_names("format", named)
  return R.percent(R.str(x), R.tuple(args, #args))
end
function F.indent(x, args, named)
  local a = R.bind("indent", { "width", "first", "blank" }, args, named)
  local width = a[1]
  if width == nil then width = 4 end
  local space = is_str(width) and width or (" "):rep(math.max(0, want_int(width, "indent")))
  local lines, n = masked.splitlines(concat({ want_str(x, "indent"), "\n" }, 2))
  local out = { n = 0 }
  if flag(a[2]) then add(out, space) end
  for i = 1, n do
    if i > 1 then
      add(out, "\n")
      if flag(a[3]) or bytes(lines[i]) ~= "" then add(out, space) end
    end
    add(out, lines[i])
  end
  return concat(out, out.n)
end
function F.items(x)
  if kind(x) == "undef" then return R.gen({}, 0) end
  if kind(x) ~= "dict" then fail("items wants a dict, got a %s", type_name(x)) end
  local list = items_of(view(x, "items"), "items")
  return R.gen(list, list.n)
end
function F.join(x, args, named)
  local a = R.bind("join", { "d", "attribute" }, args, named)
  local list, get, parts = items_of(x, "join"), getter(a[2]), { n = 0 }
  for i = 1, list.n do
    local item = list[i]
    if get then item = get(item) end
    add(parts, R.str(item))
  end
  return join(a[1] == nil and "" or R.str(a[1]), parts)
end
function F.length(x)
  local k = kind(x)
  if k == "str" then return masked.len(x) end
  if k == "list" or k == "tuple" or k == "dict" or k == "loop" then return x.n end
  if k == "view" then return x.of.n end
  if k == "undef" then return 0 end
  fail("a %s has no length", type_name(x))
end
F.count = F.length
function F.list(x)
  local list = items_of(x, "list")
  local copy = {}
  for i = 1, list.n do copy[i] = list[i] end
  return R.list(copy, list.n)
end
function F.lower(x) return masked.lower(R.str(x)) end
function F.upper(x) return masked.upper(R.str(x)) end
function F.title(x) return masked.title_words(R.str(x)) end
function F.string(x) return kind(x) == "str" and x or R.str(x) end
F.max, F.min = extreme("max", 1), extreme("min", -1)
function F.map(x, args, named)
  local out, list = { n = 0 }, items_of(x, "map")
  if #args == 0 then
    local a = R.bind("map", { "attribute", "default" }, {}, named)
    local get = getter(a[1], a[2]) or fail("map wants attribute=\"NAME\" or the name of a filter")
    for i = 1, list.n do add(out, get(list[i])) end
  else
    local name, more = bytes(want_str(args[1], "map")), {}
    for i = 2, #args do more[i - 1] = args[i] end
    if not F[name] then fail("map: filter \"%s\" is not one that medrl knows", name) end
    for i = 1, list.n do add(out, F[name](list[i], more, named)) end
  end
  return R.gen(out, out.n)
end
function F.select(x, args, named) no_names("select", named) return pick(x, "select", nil, args, 1, true) end
function F.reject(x, args, named) no_names("reject", named) return pick(x, "reject", nil, args, 1, false) end
function F.selectattr(x, args, named)
  no_names("selectattr", named)
  return pick(x, "selectattr", getter(args[1]) or fail("selectattr wants a name"), args, 2, true)
end
function F.rejectattr(x, args, named)
  no_names("rejectattr", named)
  return pick(x, "rejectattr", getter(args[1]) or fail("rejectattr wants a name"), args, 2, false)
end
function F.replace(x, args, named)
  local a = R.bind("replace", { "old", "new", "count" }, args, named)
  if a[1] == nil or a[2] == nil then fail("replace wants what to look for and what to put there") end
  return masked.replace(R.str(x), R.str(a[1]), R.str(a[2]), is_none(a[3]) and -1 or want_int(a[3], "replace"))
end
function F.reverse(x)
  local k, list, out = kind(x), items_of(x, "reverse"), {}
  for i = 1, list.n do out[i] = list[list.n + 1 - i] end
  if k == "str" then return concat(out, list.n) end
  if k == "gen" then return R.list(out, list.n) end -- what cannot be gone through backwards becomes a list
  return R.gen(out, list.n)
end
function F.round(x, args, named)
  local a = R.bind("round", { "precision", "method" }, args, named)
  return round(x, a[1] == nil and 0 or want_int(a[1], "round"), a[2] == nil and "common" or bytes(a[2]) or "?")
end
function F.safe(x)
  local s, m = bytes(R.str(x))
  return { k = "str", s = s, m = m or ("1"):rep(#s), safe = true }
end
function F.sort(x, args, named)
  local a = R.bind("sort", { "reverse", "case_sensitive", "attribute" }, args, named)
  local list = items_of(x, "sort")
  return sort(list, list.n, keyed(a[3], flag(a[2])), flag(a[1]))
end
function F.sum(x, args, named)
  local a = R.bind("sum", { "attribute", "start" }, args, named)
  local list, get = items_of(x, "sum"), getter(a[1])
  local total = a[2] == nil and 0 or a[2]
  for i = 1, list.n do total = R.fold({ total, "+", get and get(list[i]) or list[i] }, 3) end
  return total
end
F.tojson = tojson
function F.trim(x, args, named)
  local a = R.bind("trim", { "chars" }, args, named)
  local got = masked.strip(R.str(x), not is_none(a[1]) and want_str(a[1], "trim") or nil, true, true)
  return type(x) == "table" and x.safe and F.safe(got) or got
end
function F.unique(x, args, named)
  local a = R.bind("unique", { "case_sensitive", "attribute" }, args, named)
  local list, key, out, seen = items_of(x, "unique"), keyed(a[2], flag(a[1])), { n = 0 }, R.empty_dict()
  for i = 1, list.n do
    local k = key(list[i])
    if lookup(seen, k) == nil then
      R.set(seen, k, true)
      add(out, list[i])
    end
  end
  return R.gen(out, out.n)
end

local takes_safe = { d = true, default = true, length = true, count = true, safe = true, string = true, trim = true,
                     tojson = true, list = true, first = true, last = true }
local takes_nothing = { abs = true, capitalize = true, count = true, first = true, items = true, last = true,
                        length = true, list = true, lower = true, reverse = true, safe = true, string = true,
                        title = true, upper = true }

function R.filter(name, x, args, named)
  if type(x) == "table" and x.safe and not takes_safe[name] then
    fail("filter \"%s\" behind |safe is not supported; put it in front", name)
  end
  if takes_nothing[name] and (#args > 0 or #named > 0) then fail("filter \"%s\" takes no arguments here", name) end
  return F[name](x, args, named)
end

-- Tests.

local T = {}

local function remainder(x, by, what)
  local v = number(R.defined(x))
  if not v then fail("test \"%s\" wants a number, got a %s", what, type_name(x)) end
  return number(R.fold({ x, "%", by }, 3))
end
local function compares(op)
  return function(x, a)
    if a[1] == nil then fail("a test that compares wants a value") end
    return R.compare(x, op, a[1])
  end
end

function T.boolean(x) return kind(x) == "bool" end
function T.callable(x)
  local k = kind(x)
  return k == "macro" or k == "func" or k == "method" or k == "undef" or k == "loop"
end
function T.defined(x) return kind(x) ~= "undef" end
function T.undefined(x) return kind(x) == "undef" end
function T.divisibleby(x, a) return remainder(x, a[1], "divisibleby") == 0 end
function T.even(x) return remainder(x, 2, "even") == 0 end
function T.odd(x) return remainder(x, 2, "odd") == 1 end
T["false"] = function(x) return x == false end
T["true"] = function(x) return x == true end
function T.float(x) return kind(x) == "float" end
function T.integer(x) return kind(x) == "int" end
function T.number(x) return number(x) ~= nil end
function T.none(x) return kind(x) == "none" end
function T.mapping(x) return kind(x) == "dict" end
function T.string(x) return kind(x) == "str" end
function T.iterable(x)
  local k = kind(x)
  return k == "str" or k == "list" or k == "tuple" or k == "dict" or k == "view" or k == "gen" or k == "undef"
    or k == "loop"
end
function T.sequence(x)
  local k = kind(x)
  return k == "str" or k == "list" or k == "tuple" or k == "dict" or k == "undef"
end
function T.lower(x) return masked.has_case(R.str(x), false) end
function T.upper(x) return masked.has_case(R.str(x), true) end
function T.sameas(x, a)
  local k, other = kind(x), kind(a[1])
  if k == "str" or k == "int" or k == "float" then
    if k ~= other then return false end
    fail("test \"sameas\" on a %s is not supported; use ==", type_name(x))
  end
  return rawequal(x, a[1])
end
T["in"] = function(x, a) return R.contains(x, a[1] ~= nil and a[1] or fail("test \"in\" wants a value")) end
T.eq, T.equalto, T["=="] = compares "==", compares "==", compares "=="
T.ne, T["!="] = compares "!=", compares "!="
T.lt, T.lessthan, T["<"] = compares "<", compares "<", compares "<"
T.le, T["<="] = compares "<=", compares "<="
T.gt, T.greaterthan, T[">"] = compares ">", compares ">", compares ">"
T.ge, T[">="] = compares ">=", compares ">="

function R.test(name, x, args)
  local f = T[name]
  if not f then fail("test \"%s\" is not one that medrl knows", name) end
  return f(x, args)
end

-- Globals.

local months = { "January", "February", "March", "April", "May", "June", "July", "August", "September", "October",
                 "November", "December" }
local days = { "Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday" }

local function day_of_year(y, m, d)
  local before = { 0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334 }
  local leap = (y % 4 == 0 and y % 100 ~= 0) or y % 400 == 0
  return before[m] + d + (leap and m > 2 and 1 or 0)
end
local function weekday(y, m, d) -- 0 is Sunday (Sakamoto's method)
  local shift = { 0, 3, 2, 5, 0, 3, 5, 1, 4, 6, 2, 4 }
  if m < 3 then y = y - 1 end
  return (y + math.floor(y / 4) - math.floor(y / 100) + math.floor(y / 400) + shift[m] + d) % 7
end

--- strftime of the day that the run was given, at midnight, in the C locale.
local function strftime(wanted, date)
  local y, m, d = (date or ""):match("^(%d%d%d%d)-(%d%d)-(%d%d)$")
  if not y then fail("strftime_now: no date was given for this prompt (model.chat_template_date)") end
  y, m, d = tonumber(y), tonumber(m), tonumber(d)
  local w = weekday(y, m, d)
  local made = { Y = ("%04d"):format(y), m = ("%02d"):format(m), d = ("%02d"):format(d), y = ("%02d"):format(y % 100),
                 B = months[m], b = months[m]:sub(1, 3), h = months[m]:sub(1, 3), A = days[w + 1],
                 a = days[w + 1]:sub(1, 3), e = ("%2d"):format(d), j = ("%03d"):format(day_of_year(y, m, d)), H = "00",
                 I = "12", M = "00", S = "00", p = "AM", ["%"] = "%", F = date, w = tostring(w),
                 D = ("%02d/%02d/%02d"):format(m, d, y % 100), T = "00:00:00", R = "00:00" }
  local plain = { d = tostring(d), m = tostring(m), e = tostring(d), H = "0", I = "12" } -- %-d
  return (wanted:gsub("%%(%-?)(.?)", function(bare, c)
    local got = bare == "-" and plain[c] or bare == "" and made[c] or nil
    return got or fail("strftime_now: %%%s%s is not supported", bare, c)
  end))
end

local function func(f) return { k = "func", f = f } end

--- date: "2026-07-26", for strftime_now.
function R.globals(date)
  local G = {}
  G.raise_exception = func(function(args)
    fail("the template refuses these messages: %s", bytes(R.str(args[1] or "")))
  end)
  G.strftime_now = func(function(args, named)
    local a = R.bind("strftime_now", { "format" }, args, named)
    return data(strftime(bytes(want_str(a[1], "strftime_now")), date))
  end)
  G.range = func(function(args)
    local from, to, step = 0, args[1], 1
    if #args > 1 then from, to, step = args[1], args[2], args[3] == nil and 1 or args[3] end
    if #args < 1 or #args > 3 then fail("range wants 1 to 3 whole numbers") end
    from, to, step = want_int(from, "range"), want_int(to, "range"), want_int(step, "range")
    if step == 0 then fail("range: the step is 0") end
    local n = math.max(0, math.ceil((to - from) / step))
    if n > 100000 then fail("range has %.0f items, want at most 100000", n) end
    local list = {}
    for i = 1, n do list[i] = from + (i - 1) * step end
    list = R.list(list, n)
    list.range = ("range(%.0f, %.0f%s)"):format(from, to, step ~= 1 and (", %.0f"):format(step) or "")
    return list
  end)
  local function fields(what, args, named, into)
    if #args > 1 or (args[1] ~= nil and kind(args[1]) ~= "dict") then fail("%s wants names, or one dict", what) end
    local d = args[1]
    for i = 1, d and d.n or 0 do into(d.keys[i], d.values[i]) end
    for i = 1, #named, 2 do into(named[i], named[i + 1]) end
  end
  G.namespace = func(function(args, named)
    local ns = { k = "ns", of = {} }
    fields("namespace", args, named, function(key, value) ns.of[bytes(want_str(key, "namespace"))] = value end)
    return ns
  end)
  G.dict = func(function(args, named)
    local d = R.empty_dict()
    fields("dict", args, named, function(key, value) R.set(d, key, value) end)
    return d
  end)
  for _, name in ipairs { "cycler", "joiner", "lipsum" } do
    G[name] = func(function() fail("\"%s\" is not supported", name) end)
  end
  return G
end

end
