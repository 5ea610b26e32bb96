--- What compiled chat templates call: values, operators and scopes of Jinja with Python's meaning. The program
--- compiles a template to Lua (runtime/text/jinja.h); scripts have no use for this file.
---
--- Values: Lua's strings (markup) and masked strings (medrl.masked), numbers (Python's int), booleans, R.none, and
--- tables with a kind k: float, list, tuple, dict, view (of a dict), gen (an iterator: once through), undef, ns, loop,
--- macro, func, method. Numbers, True and None turn into data when they become text.
local masked = require "medrl.masked"

local R = {}

local bytes, is_str, make, concat, data = masked.bytes, masked.is, masked.make, masked.concat, masked.data

local function fail(message, ...)
  error(message:format(...), 0)
end
R.fail = fail

local most = 9007199254740992 -- 2^53: whole numbers beyond it are not exact here

R.none = { k = "none" }

local function undef(message)
  return { k = "undef", message = message }
end
R.undef = undef
R.nothing = undef("the inline if has no else, and its condition is false")

local function kind(x)
  local t = type(x)
  if t == "table" then return x.k end
  if t == "string" then return "str" end
  if t == "number" then return "int" end
  return "bool"
end
R.kind = kind

local names = { str = "str", int = "int", bool = "bool", none = "NoneType", float = "float", list = "list",
                tuple = "tuple", dict = "dict", view = "dict view", gen = "generator", undef = "Undefined",
                ns = "Namespace",
                loop = "LoopContext", macro = "Macro", func = "function", method = "method" }
local function type_name(x) return names[kind(x)] end
R.type_name = type_name

--- Undefined values may be printed and tested, and nothing else.
local function defined(x)
  if kind(x) == "undef" then fail("%s", x.message) end
  return x
end
R.defined = defined

function R.float(x) return { k = "float", x = x } end
function R.list(items, n) items.k, items.n = "list", n return items end
function R.tuple(items, n) items.k, items.n = "tuple", n return items end
function R.gen(items, n) items.k, items.n = "gen", n return items end

--- A number and whether it is a float; nil for what is none.
local function number(x)
  if type(x) == "number" then return x, false end
  if type(x) == "boolean" then return x and 1 or 0, false end
  if type(x) == "table" and x.k == "float" then return x.x, true end
end
R.number = number

--- An int out of a number; errors beyond what is exact.
local function int(x)
  if x ~= x or x > most or x < -most then fail("a whole number beyond 2^53 is not supported") end
  return x == 0 and 0 or x -- no -0
end
R.int = int

local function to_int(x)
  if type(x) == "number" then return x end
  if type(x) == "boolean" then return x and 1 or 0 end
end
R.to_int = to_int

-- Dicts: keys in their order, and where each is. Keys are equal as in Python: 1 == 1.0 == True.

local function hash(key)
  local s = bytes(key)
  if s then return "s" .. s end
  local x = number(key)
  if x then return "n" .. ("%.17g"):format(x) end
  local k = kind(key)
  if k == "none" then return "N" end
  if k == "undef" then return "U" end
  fail("a %s cannot be the key of a dict", type_name(key))
end

function R.set(d, key, value)
  local h = hash(key)
  local at = d.at[h]
  if not at then
    at = d.n + 1
    d.n, d.at[h], d.keys[at] = at, at, key
  end
  d.values[at] = value
end

local function empty_dict() return { k = "dict", n = 0, keys = {}, values = {}, at = {} } end
R.empty_dict = empty_dict

--- pairs_: key, value, key, value.
function R.dict(pairs_, n)
  local d = empty_dict()
  for i = 1, n do R.set(d, pairs_[2 * i - 1], pairs_[2 * i]) end
  return d
end

--- nil when the key is not there.
local function lookup(d, key)
  local at = d.at[hash(key)]
  if at then return d.values[at] end
end
R.lookup = lookup

-- Truth, equality, order.

local kept

local function truth(x)
  kept = x
  local t = type(x)
  if t == "boolean" then return x end
  if t == "string" then return x ~= "" end
  if t == "number" then return x ~= 0 end
  local k = x.k
  if k == "none" or k == "undef" then return false end
  if k == "float" then return x.x ~= 0 end
  if k == "list" or k == "tuple" or k == "dict" then return x.n > 0 end
  if k == "view" then return x.of.n > 0 end
  return true
end
R.truth = truth

--- What R.truth saw last, in a table: see jinja_expr.c.
function R.kept() return { kept } end

local function equal(a, b, depth)
  depth = depth or 0
  if depth > 60 then fail("a comparison of values that are nested too deep") end
  local s = bytes(a)
  if s then return s == bytes(b) end
  local x, y = number(a), number(b)
  if x then return x == y end
  local k = kind(a)
  if k ~= kind(b) then return false end
  if k == "list" or k == "tuple" then
    if a.n ~= b.n or (a.range == nil) ~= (b.range == nil) then return false end
    for i = 1, a.n do
      if not equal(a[i], b[i], depth + 1) then return false end
    end
    return true
  elseif k == "dict" then
    if a.n ~= b.n then return false end
    for i = 1, a.n do
      local other = lookup(b, a.keys[i])
      if other == nil or not equal(a.values[i], other, depth + 1) then return false end
    end
    return true
  elseif k == "undef" then
    return true
  elseif k == "view" or k == "gen" or k == "method" then
    fail("values of type %s cannot be compared here", type_name(a))
  end
  return rawequal(a, b)
end
R.equal = equal

--- -1, 0 or 1; errors where Python has no order.
local function order(a, b, op)
  defined(a)
  defined(b)
  local s, t = bytes(a), bytes(b)
  if s and t then return s < t and -1 or s > t and 1 or 0 end
  local x, y = number(a), number(b)
  if x and y then return x < y and -1 or x > y and 1 or 0 end
  local k = kind(a)
  if (k == "list" or k == "tuple") and k == kind(b) then
    for i = 1, math.min(a.n, b.n) do
      if not equal(a[i], b[i]) then return order(a[i], b[i], op) end
    end
    return a.n < b.n and -1 or a.n > b.n and 1 or 0
  end
  fail("\"%s\" has no meaning between a %s and a %s", op, type_name(a), type_name(b))
end
R.order = order

local items_of

local function contains(x, list)
  local k = kind(list)
  if k == "str" then
    local s = bytes(x)
    if not s then fail("\"in\" a str wants a str on its left, got a %s", type_name(x)) end
    return bytes(list):find(s, 1, true) ~= nil
  elseif k == "dict" then
    return lookup(list, x) ~= nil
  end
  local found = items_of(list, "in")
  for i = 1, found.n do
    if equal(x, found[i]) then return true end
  end
  return false
end
R.contains = contains

local compare = {
  ["=="] = function(a, b) return equal(a, b) end,
  ["!="] = function(a, b) return not equal(a, b) end,
  ["<"] = function(a, b) return order(a, b, "<") < 0 end,
  ["<="] = function(a, b) return order(a, b, "<=") <= 0 end,
  [">"] = function(a, b) return order(a, b, ">") > 0 end,
  [">="] = function(a, b) return order(a, b, ">=") >= 0 end,
  ["in"] = contains,
  ["not in"] = function(a, b) return not contains(a, b) end,
}
function R.compare(a, op, b) return compare[op](a, b) end

--- a, op, f, op, f ...: each f gives the next operand, and is called while all before hold.
function R.chain(a, ...)
  for i = 1, select("#", ...), 2 do
    local op, f = select(i, ...)
    local b = f()
    if not compare[op](a, b) then return false end
    a = b
  end
  return true
end

-- Values as text.

--- Python's repr of a float: the shortest digits that read back the same.
local function float_text(x)
  if x ~= x then return "nan" end
  if x == math.huge then return "inf" end
  if x == -math.huge then return "-inf" end
  local digits
  for precision = 1, 17 do
    digits = ("%." .. (precision - 1) .. "e"):format(x)
    if tonumber(digits) == x then break end
  end
  local sign, first, rest, exponent = digits:match("^(%-?)(%d)%.?(%d*)e([-+]%d+)$")
  exponent = tonumber(exponent)
  local all = first .. rest
  if exponent < -4 or exponent >= 16 then
    return ("%s%s%se%s%02d"):format(sign, first, rest ~= "" and "." .. rest or "", exponent < 0 and "-" or "+",
      math.abs(exponent))
  end
  if exponent < 0 then return sign .. "0." .. ("0"):rep(-exponent - 1) .. all end
  if #all <= exponent + 1 then return sign .. all .. ("0"):rep(exponent + 1 - #all) .. ".0" end
  return sign .. all:sub(1, exponent + 1) .. "." .. all:sub(exponent + 2)
end

local function int_text(x) return ("%.0f"):format(x) end

local function add(out, x)
  out.n = out.n + 1
  out[out.n] = x
end

local function repr(x, out, depth)
  if depth > 60 then fail("a value is nested too deep to be printed") end
  local k = kind(x)
  if k == "str" then return add(out, masked.repr(x)) end
  if k == "list" or k == "tuple" then
    if x.range then return add(out, data(x.range)) end
    add(out, data(k == "list" and "[" or "("))
    for i = 1, x.n do
      if i > 1 then add(out, data ", ") end
      repr(x[i], out, depth + 1)
    end
    return add(out, data(k == "list" and "]" or x.n == 1 and ",)" or ")"))
  elseif k == "dict" then
    add(out, data "{")
    for i = 1, x.n do
      if i > 1 then add(out, data ", ") end
      repr(x.keys[i], out, depth + 1)
      add(out, data ": ")
      repr(x.values[i], out, depth + 1)
    end
    return add(out, data "}")
  elseif k == "view" then
    add(out, data("dict_" .. x.what .. "("))
    repr(R.list(items_of(x, "print"), x.of.n), out, depth + 1)
    return add(out, data ")")
  elseif k == "undef" then
    return add(out, data "Undefined")
  end
  add(out, R.str(x))
end

--- Python's str().
function R.str(x)
  local t = type(x)
  if t == "string" then return x end
  if t == "number" then return data(int_text(x)) end
  if t == "boolean" then return data(x and "True" or "False") end
  local k = x.k
  if k == "str" then return x.safe and make(x.s, x.m) or x end
  if k == "undef" then return "" end
  if k == "none" then return data "None" end
  if k == "float" then return data(float_text(x.x)) end
  if k == "list" or k == "tuple" or k == "dict" or k == "view" then
    local out = { n = 0 }
    repr(x, out, 0)
    return concat(out, out.n)
  end
  fail("a %s has no text", type_name(x))
end
R.float_text, R.int_text = float_text, int_text

-- Output.

function R.buffer() return { n = 0, size = 0 } end

function R.put(o, x)
  local s = R.str(x)
  if s == "" then return end
  o.n = o.n + 1
  o[o.n] = s
  o.size = o.size + #bytes(s)
  if o.size > masked.limit then fail("the template writes more than %d bytes", masked.limit) end
end

function R.take(o) return concat(o, o.n) end

--- a ~ b ~ c
function R.join(list, n)
  for i = 1, n do list[i] = R.str(list[i]) end
  return concat(list, n)
end

-- Operators.

local function bad_operands(a, op, b)
  defined(a)
  defined(b)
  fail("\"%s\" has no meaning between a %s and a %s; text and numbers are joined with ~", op, type_name(a),
    type_name(b))
end

local function joined_lists(a, b)
  local list = { k = a.k, n = a.n + b.n }
  if list.n > 100000 then fail("a list has more than 100000 items") end
  for i = 1, a.n do list[i] = a[i] end
  for i = 1, b.n do list[a.n + i] = b[i] end
  return list
end

local function plus(a, b)
  local s, t = bytes(a), bytes(b)
  if s and t then
    local left, right = type(a) == "table" and a.safe, type(b) == "table" and b.safe
    if not left and not right then return concat({ a, b }, 2) end
    local got = concat({ left and a or masked.escape(a), right and b or masked.escape(b) }, 2)
    local text, mask = bytes(got)
    return { k = "str", s = text, m = mask or ("1"):rep(#text), safe = true }
  end
  local k = kind(a)
  if (k == "list" or k == "tuple") and k == kind(b) and not a.range and not b.range then return joined_lists(a, b) end
  return bad_operands(a, "+", b)
end

local function repeated(x, n)
  if n < 0 then n = 0 end
  local s = bytes(x)
  if s then
    if #s * n > masked.limit then fail("a text has more than %d bytes", masked.limit) end
    local list = {}
    for i = 1, n do list[i] = x end
    return concat(list, n)
  end
  local list = { k = x.k, n = x.n * n }
  if list.n > 100000 then fail("a list has more than 100000 items") end
  for i = 1, list.n do list[i] = x[(i - 1) % x.n + 1] end
  return list
end

local function times(a, b)
  local ka, kb = kind(a), kind(b)
  if (ka == "list" and a.range) or (kb == "list" and b.range) then return bad_operands(a, "*", b) end
  if (ka == "str" or ka == "list" or ka == "tuple") and to_int(b) then return repeated(a, to_int(b)) end
  if (kb == "str" or kb == "list" or kb == "tuple") and to_int(a) then return repeated(b, to_int(a)) end
  return bad_operands(a, "*", b)
end

local function not_zero(y)
  if y == 0 then fail("division by zero") end
end

local numeric = {
  ["+"] = function(x, y) return x + y end,
  ["-"] = function(x, y) return x - y end,
  ["*"] = function(x, y) return x * y end,
  ["/"] = function(x, y) not_zero(y) return x / y end,
  ["//"] = function(x, y)
    not_zero(y)
    local q = math.floor(x / y)
    if x - q * y < 0 and y > 0 then q = q - 1 end -- x / y was rounded up to a whole number
    return q
  end,
  ["%"] = function(x, y) not_zero(y) return x - math.floor(x / y) * y end,
  ["**"] = function(x, y)
    if x == 0 and y < 0 then fail("0 to a negative power") end
    return x ^ y
  end,
}

local function apply(a, op, b)
  local x, x_float = number(a)
  local y, y_float = number(b)
  if x and y then
    local got = numeric[op](x, y)
    if x_float or y_float or op == "/" or (op == "**" and y < 0) then return R.float(got) end
    return int(got)
  end
  if op == "+" then return plus(a, b) end
  if op == "*" then return times(a, b) end
  if op == "%" and is_str(a) then
    return R.percent(a, kind(b) == "tuple" and b or R.tuple({ b }, 1))
  end
  return bad_operands(a, op, b)
end

--- { a, "+", b, "-", c }, from the left.
function R.fold(list, n)
  local a = list[1]
  for i = 2, n, 2 do a = apply(a, list[i], list[i + 1]) end
  return a
end

function R.neg(x)
  local v, is_float = number(defined(x))
  if not v then fail("\"-\" wants a number, got a %s", type_name(x)) end
  return is_float and R.float(-v) or 0 - v
end
function R.pos(x)
  local v, is_float = number(defined(x))
  if not v then fail("\"+\" wants a number, got a %s", type_name(x)) end
  return is_float and R.float(v) or v
end

--- "..." % (a, b): %s, %d and %%.
function R.percent(format, args)
  local list, n = masked.chars(format)
  local out, at, i = { n = 0 }, 0, 1
  while i <= n do
    local c = list[i]
    if bytes(c) == "%" then
      i = i + 1
      local what = i <= n and bytes(list[i]) or ""
      if what == "%" then
        add(out, c)
      elseif what == "s" or what == "d" then
        at = at + 1
        if at > args.n then fail("%%: %d values are too few for the format", args.n) end
        local x = args[at]
        if what == "d" then
          if not number(x) then fail("%%d wants a number, got a %s", type_name(x)) end
          local v = number(x)
          x = int(v < 0 and math.ceil(v) or math.floor(v))
        end
        add(out, R.str(x))
      else
        fail("the format %%%s is not supported, want %%s, %%d or %%%%", what)
      end
    else
      add(out, c)
    end
    i = i + 1
  end
  if at < args.n then fail("%%: %d values are too many for the format", args.n) end
  return concat(out, out.n)
end

-- Iteration.

--- A fresh list of what Python's iter() gives; errors for what has no items.
items_of = function(x, what)
  local k = kind(x)
  if k == "list" or k == "tuple" then return x end
  if k == "gen" then
    if x.used then return { n = 0 } end
    x.used = true
    return x
  end
  if k == "str" then
    local list, n = masked.chars(x)
    list.n = n
    return list
  end
  if k == "dict" then
    local list = { n = x.n }
    for i = 1, x.n do list[i] = x.keys[i] end
    return list
  end
  if k == "view" then
    local list, d = { n = x.of.n }, x.of
    for i = 1, d.n do
      list[i] = x.what == "keys" and d.keys[i] or x.what == "values" and d.values[i]
      if x.what == "items" then list[i] = R.tuple({ d.keys[i], d.values[i] }, 2) end
    end
    return list
  end
  if k == "undef" then return { n = 0 } end
  fail("%s: a %s has no items", what, type_name(x))
end
R.items_of = items_of

function R.unpack(x, n)
  local list = items_of(defined(x), "set")
  if list.n ~= n then fail("%d values for %d names", list.n, n) end
  return unpack(list, 1, n)
end

R.no_loop = undef("\"loop\" is not there in the condition of a for")

function R.loop(x, keep)
  local list = items_of(x, "for")
  local L = { k = "loop", n = list.n, i = 0, list = list }
  if keep then
    L.list, L.n = {}, 0
    for i = 1, list.n do
      if keep(list[i]) then
        L.n = L.n + 1
        L.list[L.n] = list[i]
      end
    end
  elseif list == x then -- the list may not change while it is gone through, and cannot: nothing changes lists
    L.list = x
  end
  return L
end

function R.turn(L, i)
  L.i = i
  return L.list[i]
end

local loop_attributes = {
  index = function(L) return L.i end,
  index0 = function(L) return L.i - 1 end,
  revindex = function(L) return L.n - L.i + 1 end,
  revindex0 = function(L) return L.n - L.i end,
  first = function(L) return L.i == 1 end,
  last = function(L) return L.i == L.n end,
  length = function(L) return L.n end,
  depth = function() return 1 end,
  depth0 = function() return 0 end,
  previtem = function(L) return L.i > 1 and { L.list[L.i - 1] } or { undef("there is no item before the first") } end,
  nextitem = function(L) return L.i < L.n and { L.list[L.i + 1] } or { undef("there is no item behind the last") } end,
}
local function loop_attribute(L, name)
  local f = loop_attributes[name]
  if name == "cycle" or name == "changed" then return { k = "method", of = L, name = name } end
  if not f then return nil end
  local got = f(L)
  if type(got) == "table" then return got[1] end
  return got
end

-- Scopes. A name that nobody set is asked for in the variables of the call, then among the globals.

function R.scope(outer) return setmetatable({}, { __index = outer }) end

--- variables: a Lua table of names; globals: the same.
function R.root(variables, globals)
  return R.scope(setmetatable({}, {
    __index = function(_, name)
      local got = variables[name]
      if got == nil then got = globals[name] end
      if got == nil then got = undef(("\"%s\" is not defined"):format(name)) end
      return got
    end,
  }))
end

function R.set_attr(ns, name, value)
  if kind(ns) ~= "ns" then fail("an attribute can be set on a namespace() only, got a %s", type_name(ns)) end
  ns.of[name] = value
end

-- Macros.

function R.not_given(name) return undef(("parameter \"%s\" was not given"):format(name)) end

function R.macro(name, params, f, caller, varargs, kwargs)
  return { k = "macro", name = name, params = params, f = f, caller = caller, varargs = varargs, kwargs = kwargs }
end

function R.extras(v, A)
  if A.caller ~= nil then v.caller = A.caller end
  if A.varargs ~= nil then v.varargs = A.varargs end
  if A.kwargs ~= nil then v.kwargs = A.kwargs end
end

local depth = 0
function R.begin() depth = 0 end -- an error may have left macros half way

local function call_macro(m, args, named)
  local A, n = {}, #m.params
  for i = 1, n do A[i] = args[i] end
  local known = {}
  for i = 1, n do known[m.params[i]] = i end
  local rest = empty_dict()
  for i = 1, #named, 2 do
    local name, value = named[i], named[i + 1]
    local at = known[name]
    if at then
      if A[at] ~= nil then fail("macro \"%s\" got parameter \"%s\" twice", m.name, name) end
      A[at] = value
    elseif name == "caller" and m.caller then
      A.caller = value
    elseif m.kwargs then
      R.set(rest, name, value)
    else
      fail("macro \"%s\" has no parameter \"%s\"", m.name, name)
    end
  end
  if m.caller and A.caller == nil then A.caller = undef("no caller was given: the macro was not used with call") end
  if m.kwargs then A.kwargs = rest end
  local more = { k = "tuple", n = 0 }
  for i = n + 1, #args do add(more, args[i]) end
  if m.varargs then
    A.varargs = more
  elseif more.n > 0 then
    fail("macro \"%s\" takes %d arguments, got %d", m.name, n, #args)
  end
  depth = depth + 1
  if depth > 100 then fail("macros call each other more than 100 levels deep") end
  local got = m.f(A)
  depth = depth - 1
  return got
end

function R.call(f, args, named)
  local k = kind(f)
  if k == "macro" then return call_macro(f, args, named) end
  if k == "func" then return f.f(args, named) end
  if k == "method" then return R.call_method(f.of, f.name, args, named) end
  defined(f)
  fail("a %s cannot be called", type_name(f))
end

--- Arguments by place and by name, as `params` lists them; missing ones are nil.
function R.bind(what, params, args, named)
  local got = {}
  if #args > #params then fail("%s takes %d arguments, got %d", what, #params, #args) end
  for i = 1, #args do got[i] = args[i] end
  for i = 1, #named, 2 do
    local at
    for j = 1, #params do
      if params[j] == named[i] then at = j end
    end
    if not at then fail("%s has no argument \"%s\"", what, named[i]) end
    if got[at] ~= nil then fail("%s got argument \"%s\" twice", what, named[i]) end
    got[at] = named[i + 1]
  end
  return got
end

-- Attributes and items.

local no_text = {} -- method names that this type of Python has, and whether they are here: true, false

local function method(x, name)
  local of = R.methods[kind(x)] or no_text
  if of[name] == nil then return nil end
  if of[name] == "changes" then
    return undef(("\"%s\" would change a %s, which templates may not; build a new one with +"):format(name,
      type_name(x)))
  end
  return { k = "method", of = x, name = name }
end

local function missing(x, name)
  return undef(("a %s has no \"%s\""):format(type_name(x), tostring(name)))
end

local function get(x, name)
  local k = kind(x)
  if k == "dict" then return lookup(x, name) end
  if k == "ns" then return x.of[name] end
  if k == "loop" then return loop_attribute(x, name) end
end

--- x.name
function R.attr(x, name)
  local k = kind(x)
  if k == "undef" then fail("%s, so it has no \"%s\"", x.message, name) end
  if (k == "macro" or k == "func" or k == "int" or k == "float" or k == "bool") and R.odd_attributes[name] then
    fail("attribute \"%s\" of a %s is not supported", name, type_name(x))
  end
  local got = method(x, name)
  if got == nil then got = get(x, name) end
  if got == nil then got = missing(x, name) end
  return got
end

local function at_index(x, i)
  if i < 0 then i = i + x.n end
  if i < 0 or i >= x.n then return undef(("index %d is outside of a list of %d"):format(i, x.n)) end
  return x[i + 1]
end

--- x[key]
function R.item(x, key)
  local k = kind(x)
  if k == "undef" then fail("%s, so it has no items", x.message) end
  local name = bytes(key)
  if name then
    if name:sub(1, 1) == "_" and k ~= "dict" then
      return undef(("\"%s\": names that begin with _ are not there for templates"):format(name))
    end
    local got = get(x, k == "dict" and key or name)
    if got == nil then got = method(x, name) end
    if got == nil then got = missing(x, name) end
    return got
  end
  if k == "dict" then
    if kind(key) == "list" or kind(key) == "dict" then return missing(x, "such key") end
    local got = lookup(x, key)
    if got == nil then got = missing(x, "such key") end
    return got
  end
  local i = to_int(key)
  if not i then return missing(x, "such item") end
  if k == "list" or k == "tuple" then return at_index(x, i) end
  if k == "str" then
    local n = masked.len(x)
    if i < 0 then i = i + n end
    if i < 0 or i >= n then return undef(("index %d is outside of a text of %d"):format(i, n)) end
    return masked.slice(x, i, i + 1, 1)
  end
  return missing(x, "items by number")
end

local function bound(x, n, default)
  if x == nil or kind(x) == "none" then return default end
  local i = to_int(x)
  if i < 0 then i = i + n end
  return i
end

--- x[a:b:c]
function R.slice(x, a, b, c)
  local k = kind(x)
  if k == "undef" then fail("%s, so it has no items", x.message) end
  if k ~= "list" and k ~= "tuple" and k ~= "str" then fail("a %s has no parts", type_name(x)) end
  if x.range then fail("a part of a range is not supported; use |list first") end
  for _, part in ipairs { a or 0, b or 0, c or 0 } do
    if not to_int(part) and kind(part) ~= "none" then fail("a slice wants whole numbers, got a %s", type_name(part)) end
  end
  local step = bound(c, 0, 1)
  if step == 0 then fail("a slice has step 0") end
  local n = k == "str" and masked.len(x) or x.n
  local from, to = bound(a, n, step > 0 and 0 or n - 1), bound(b, n, step > 0 and n or -1)
  if step > 0 then
    from, to = math.max(0, math.min(from, n)), math.max(0, math.min(to, n))
  else
    from, to = math.max(-1, math.min(from, n - 1)), math.max(-1, math.min(to, n - 1))
  end
  if k == "str" then return masked.slice(x, from, to, step) end
  local list = { k = k, n = 0 }
  for i = from, to + (step > 0 and -1 or 1), step do add(list, x[i + 1]) end
  return list
end

R.odd_attributes = {}
for _, name in ipairs { "name", "arguments", "catch_kwargs", "catch_varargs", "caller", "real", "imag", "numerator",
                        "denominator", "bit_length", "is_integer", "conjugate" } do R.odd_attributes[name] = true end

require("medrl.jinja_library")(R)

return R
