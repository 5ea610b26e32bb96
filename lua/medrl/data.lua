--- Data sets: where rows come from and how they are mixed. Everything here is a plan until the run asks for rows: a
--- recipe is evaluated first, then overrides are applied, and only then are files opened. Access is by index, so order
--- is a function of seed and position.
--- Mixing equals Hugging Face `datasets` 5.2 number for number (concatenate_datasets, interleave_datasets, shuffle,
--- train_test_split).
--- What opens them is medrl.views: every worker evaluates the recipe, and one of them reads rows.
local host = require "medrl.host"
local json = require "medrl.json"

local M = {}

local TAG = {} -- marks a plan; nothing else carries it
local methods = {}
-- What a plan may hold. Any other name is a mistake (a method that is not there), and nil would hide it.
local fields = {}
for _, name in ipairs { "_tag", "op", "from", "list", "name", "options", "rows", "f", "n", "places", "seed",
  "probabilities", "strategy", "old", "new", "columns", "test_size", "part" } do fields[name] = true end

local Set = {}
function Set.__index(_, key)
  local method = methods[key]
  if method or fields[key] or type(key) ~= "string" then return method end
  error(("a data set has no \"%s\"; it has map, filter, select, rename, remove_columns, take, skip, shuffle and split")
    :format(key), 2)
end

local function is_set(x)
  return type(x) == "table" and rawget(x, "_tag") == TAG
end
M.is_set = is_set

local function plan(op, with)
  with._tag, with.op = TAG, op
  return setmetatable(with, Set)
end

local function check(ok, message, ...)
  if not ok then error(message:format(...), 3) end
  return ok
end

local function whole(x, low)
  return type(x) == "number" and x >= low and x == math.floor(x)
end

--- Rows of lua/datasets/<name>.lua. options are the module's own (`short = true`), and `split` picks from
--- data.files.<name> when that is a table.
function M.get(name, options)
  check(type(name) == "string" and name ~= "", "data.get: the name is a %s, want a string", type(name))
  check(options == nil or type(options) == "table", "data.get: the options are a %s, want a table", type(options))
  return plan("get", { name = name, options = options or {} })
end

--- Rows of a list, as they are: for tests and few rows.
function M.from_list(rows)
  check(type(rows) == "table", "data.from_list: want a list of rows, got a %s", type(rows))
  return plan("list", { rows = rows })
end

local function check_sets(list, where)
  if type(list) ~= "table" or is_set(list) or #list == 0 then error(where .. ": want a list of data sets", 3) end
  for i = 1, #list do
    if not is_set(list[i]) then error(("%s: entry %d is a %s, want a data set"):format(where, i, type(list[i])), 3) end
  end
end

--- All rows of the first set, then all of the second, and so on.
function M.concatenate(list)
  check_sets(list, "data.concatenate")
  return plan("concatenate", { list = list })
end

local strategies = { first_exhausted = true, all_exhausted = true, all_exhausted_without_replacement = true }

local interleave_options = { probabilities = true, seed = true, stopping_strategy = true }

--- data.interleave({ a, b }, { probabilities = { 0.7, 0.3 }, seed = 42, stopping_strategy = "first_exhausted" });
--- without probabilities in turn. The options may also stand in the list itself.
function M.interleave(list, options)
  check_sets(list, "data.interleave")
  check(options == nil or type(options) == "table" and not is_set(options),
    "data.interleave: the options are a %s, want a table behind the list of data sets",
    is_set(options) and "data set" or type(options))
  local given, unknown = {}, {}
  for _, from in ipairs { list, options } do
    for key, value in pairs(from) do
      if interleave_options[key] then given[key] = value
      elseif type(key) ~= "number" or from ~= list then unknown[#unknown + 1] = tostring(key) end
    end
  end
  table.sort(unknown)
  check(not unknown[1], "data.interleave: unknown option \"%s\", want probabilities, seed or stopping_strategy",
    unknown[1])
  local p, strategy = given.probabilities, given.stopping_strategy or "first_exhausted"
  check(strategies[strategy], "data.interleave: unknown stopping_strategy \"%s\", want first_exhausted, "
    .. "all_exhausted or all_exhausted_without_replacement", tostring(strategy))
  if p ~= nil then
    check(type(p) == "table" and #p == #list, "data.interleave: want %d probabilities", #list)
    local sum = 0
    for i = 1, #p do
      check(type(p[i]) == "number" and p[i] >= 0, "data.interleave: probability %d is not a number from 0 on", i)
      sum = sum + p[i]
    end
    check(math.abs(sum - 1) < 1e-6, "data.interleave: the probabilities sum to %g, want 1", sum)
    check(whole(given.seed, 0), "data.interleave: with probabilities a seed is needed")
  end
  return plan("interleave", { list = list, probabilities = p, seed = given.seed, strategy = strategy })
end

function methods:shuffle(seed)
  if type(seed) == "table" then seed = seed.seed end
  check(whole(seed, 0), "shuffle: the seed is not a whole number from 0 on")
  return plan("shuffle", { from = self, seed = seed })
end
function methods:take(n)
  check(whole(n, 0), "take: want a number of rows")
  return plan("take", { from = self, n = n })
end
function methods:skip(n)
  check(whole(n, 0), "skip: want a number of rows")
  return plan("skip", { from = self, n = n })
end
--- Rows at these places, counted from 1 (as everything in Lua; Hugging Face's select counts from 0).
function methods:select(places)
  check(type(places) == "table" and not is_set(places), "select: want a list of places, counted from 1")
  return plan("select", { from = self, places = places })
end
--- Keeps the rows for which f(row, place) is true; `return false, "why"` counts the row under that reason. All rows
--- are looked at once, one after the other, when the set is opened.
function methods:filter(f)
  check(type(f) == "function", "filter: want a function")
  return plan("filter", { from = self, f = f })
end

local function names_of(columns, what)
  if type(columns) == "string" then columns = { columns } end
  if type(columns) ~= "table" or #columns == 0 then
    error(what .. ": want the name of a column or a list of names", 3)
  end
  for i = 1, #columns do
    if type(columns[i]) ~= "string" then error(("%s: entry %d is a %s, want a name"):format(what, i,
      type(columns[i])), 3) end
  end
  return columns
end

--- f(row, place) gives columns that are put over the row's own (as Hugging Face's map), or the row itself, changed.
--- options.remove_columns: columns that go before.
function methods:map(f, options)
  check(type(f) == "function", "map: want a function")
  check(options == nil or type(options) == "table", "map: the options are a %s, want { remove_columns = ... }",
    type(options))
  local columns = options and options.remove_columns
  for key in pairs(options or {}) do
    check(key == "remove_columns", "map: unknown option \"%s\", want remove_columns", tostring(key))
  end
  return plan("map", { from = self, f = f, columns = columns and names_of(columns, "map: remove_columns") })
end
function methods:rename(old, new)
  check(type(old) == "string" and type(new) == "string", "rename: want the old and the new name")
  return plan("rename", { from = self, old = old, new = new })
end
function methods:remove_columns(columns)
  return plan("remove_columns", { from = self, columns = names_of(columns, "remove_columns") })
end
--- { train = ..., test = ... }: test gets ceil(test_size * n) rows of a permutation, train the following floor((1 -
--- test_size) * n). A whole test_size is a number of rows.
function methods:split(options)
  check(type(options) == "table", "split: want { test_size = 0.1, seed = 42 }")
  local f, seed = options.test_size, options.seed
  check(type(f) == "number" and f > 0 and (f < 1 or whole(f, 1)),
    "split: test_size has to lie between 0 and 1, or to be a number of rows")
  check(whole(seed, 0), "split: the seed is not a whole number from 0 on")
  return {
    train = plan("split", { from = self, test_size = f, seed = seed, part = "train" }),
    test = plan("split", { from = self, test_size = f, seed = seed, part = "test" }),
  }
end

-- The names that these have in Hugging Face datasets.
methods.rename_column, methods.train_test_split = methods.rename, methods.split
M.concatenate_datasets, M.interleave_datasets = M.concatenate, M.interleave

--- What a plan is, for the record.
function M.describe(set)
  local op = set.op
  local function all(list)
    local t = {}
    for i = 1, #list do t[i] = M.describe(list[i]) end
    return table.concat(t, ", ")
  end
  if op == "get" then
    local text = json.encode(set.options)
    return text == "{}" and set.name or set.name .. text
  end
  if op == "list" then return ("list of %d rows"):format(#set.rows) end
  if op == "concatenate" then return "concatenate(" .. all(set.list) .. ")" end
  if op == "interleave" then
    local p = set.probabilities
    p = p and (", probabilities=%s, seed=%d"):format(json.encode(p), set.seed) or ""
    return ("interleave(%s%s, %s)"):format(all(set.list), p, set.strategy)
  end
  local from = M.describe(set.from)
  if op == "shuffle" then return ("%s:shuffle(%d)"):format(from, set.seed) end
  if op == "take" or op == "skip" then return ("%s:%s(%d)"):format(from, op, set.n) end
  if op == "select" then return ("%s:select(%d places)"):format(from, #set.places) end
  if op == "rename" then return ("%s:rename(%s, %s)"):format(from, set.old, set.new) end
  if op == "remove_columns" then return ("%s:remove_columns(%s)"):format(from, table.concat(set.columns, ", ")) end
  if op == "split" then return ("%s:split(%g, %d).%s"):format(from, set.test_size, set.seed, set.part) end
  return ("%s:%s(%s)"):format(from, op, host.where(set.f))
end

--- Opens a plan: medrl.views.
function M.open(set, ctx)
  return require("medrl.views").open(set, ctx)
end

return M
