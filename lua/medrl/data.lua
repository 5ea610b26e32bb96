--- Data sets: where rows come from and how they are mixed. Everything here is a plan until the run asks for rows: a
--- recipe is evaluated first, then overrides are applied, and only then are files opened. Access is by index, so order
--- is a function of seed and position.
--- Mixing equals Hugging Face `datasets` 5.2 number for number (concatenate_datasets, interleave_datasets, shuffle,
--- train_test_split).
local files = require "medrl.files"
local host = require "medrl.host"
local json = require "medrl.json"
local log = require "medrl.log"
local rng = require "medrl.rng"

local M = {}

local TAG = {} -- marks a plan; nothing else carries it
local Set = {}
Set.__index = Set

local function is_set(x)
  return type(x) == "table" and rawget(x, "_tag") == TAG
end
M.is_set = is_set

local function plan(op, fields)
  fields._tag, fields.op = TAG, op
  return setmetatable(fields, Set)
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
  check(type(list) == "table" and not is_set(list) and #list > 0, "%s: want a list of data sets", where)
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

--- data.interleave { a, b, probabilities = { 0.7, 0.3 }, seed = 42, stopping_strategy = "first_exhausted" }; without
--- probabilities in turn.
function M.interleave(list)
  check_sets(list, "data.interleave")
  local p, strategy = list.probabilities, list.stopping_strategy or "first_exhausted"
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
    check(whole(list.seed, 0), "data.interleave: with probabilities a seed is needed")
  end
  return plan("interleave", { list = list, probabilities = p, seed = list.seed, strategy = strategy })
end

function Set:shuffle(seed)
  check(whole(seed, 0), "shuffle: the seed is not a whole number from 0 on")
  return plan("shuffle", { from = self, seed = seed })
end
function Set:take(n)
  check(whole(n, 0), "take: want a number of rows")
  return plan("take", { from = self, n = n })
end
function Set:skip(n)
  check(whole(n, 0), "skip: want a number of rows")
  return plan("skip", { from = self, n = n })
end
--- Rows at these places, counted from 1.
function Set:select(places)
  check(type(places) == "table", "select: want a list of places")
  return plan("select", { from = self, places = places })
end
--- Keeps the rows for which f(row) is true. All rows are looked at once, when the set is opened.
function Set:filter(f)
  check(type(f) == "function", "filter: want a function")
  return plan("filter", { from = self, f = f })
end
--- f(row) gives the row to use instead.
function Set:map(f)
  check(type(f) == "function", "map: want a function")
  return plan("map", { from = self, f = f })
end
function Set:rename(old, new)
  check(type(old) == "string" and type(new) == "string", "rename: want the old and the new name")
  return plan("rename", { from = self, old = old, new = new })
end
--- { train = ..., test = ... }: test gets ceil(test_size * n) rows of a permutation, train the following floor((1 -
--- test_size) * n).
function Set:split(options)
  local f, seed = options and options.test_size, options and options.seed
  check(type(f) == "number" and f > 0 and f < 1, "split: test_size has to lie between 0 and 1")
  check(whole(seed, 0), "split: the seed is not a whole number from 0 on")
  return {
    train = plan("split", { from = self, test_size = f, seed = seed, part = "train" }),
    test = plan("split", { from = self, test_size = f, seed = seed, part = "test" }),
  }
end

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
  if op == "split" then return ("%s:split(%g, %d).%s"):format(from, set.test_size, set.seed, set.part) end
  return ("%s:%s(%s)"):format(from, op, host.where(set.f))
end

-- Opening. A view is { n = number of rows, get = function(i) }, i from 1; nil is a set that was left out with "none".

local function sub_view(view, places)
  local get = view.get
  return { n = #places, get = function(i) return get(places[i]) end }
end

local function type_with_article(x)
  local t = type(x)
  return x == nil and "missing" or "a " .. t
end

-- Why a raw row cannot be used by a module that lists its columns; nil when it can.
local function bad_column(module, raw)
  for _, column in ipairs(module.columns or {}) do
    local name, want = column[1], column[2]
    if type(raw[name]) ~= want then
      return ('field "%s" is %s, want a %s'):format(name, type_with_article(raw[name]), want)
    end
  end
end

local function check_row(row, place, at)
  if type(row) ~= "table" then
    error(("%s: row() returned a %s for %s, want a table or nil"):format(place, type(row), at), 0)
  end
  if type(row.messages) ~= "table" or #row.messages == 0 then
    error(("%s: row() returned no messages for %s; want a list of { role = , content = }"):format(place, at), 0)
  end
  for i, m in ipairs(row.messages) do
    if type(m) ~= "table" or type(m.role) ~= "string" or type(m.content) ~= "string" then
      error(("%s: message %d of %s has no role or content"):format(place, i, at), 0)
    end
  end
  return row
end

local open = {}

local function source_path(set, ctx)
  local path = ctx.files[set.name]
  local split = set.options.split or "train"
  if type(path) == "table" then
    if path[split] == nil then
      error(("%s%s: data.files.%s has no entry \"%s\""):format(host.recipe_fault, ctx.place, set.name, split), 0)
    end
    path = path[split]
  end
  return path
end

function open.get(set, ctx)
  local name = set.name
  local path = source_path(set, ctx)
  if path == "none" then
    ctx.report[#ctx.report + 1] = name .. ": left out"
    return nil
  end
  local module_name = name:find("[./]") and name or "datasets." .. name
  local ok, module = pcall(require, module_name)
  if not ok then
    error(("%s%s: data.get \"%s\": %s"):format(host.recipe_fault, ctx.place, name, tostring(module)), 0)
  end
  local place = host.place(module_name)
  if type(module) ~= "table" or type(module.row) ~= "function" then
    error(host.recipe_fault .. place .. ": want a table with a function row(r)", 0)
  end
  if module.name ~= nil and module.name ~= place:match("([^/]+)%.lua$") then
    error(("%s%s: M.name is \"%s\", want the file's name"):format(host.recipe_fault, place, tostring(module.name)), 0)
  end
  local raw_rows, shown
  if module.load and path == nil then
    local made = module.load(set.options)
    if type(made) ~= "table" or not whole(made.n, 0) or type(made.get) ~= "function" then
      error(("%s: load() returned a %s, want { n = , get = function(i) }"):format(place, type(made)), 0)
    end
    raw_rows = { n = made.n, get = made.get, at = function(i) return ("%s row %d"):format(name, i) end }
    shown = "made by " .. place
  else
    if type(path) ~= "string" or path == "" then
      error(("%s%s: no file for data set \"%s\": put the file there with data.files.%s = \"PATH\" (or "
        .. "--set data.files.%s=PATH; \"none\" leaves the set out)")
        :format(host.recipe_fault, ctx.place, name, name, name), 0)
    end
    local opened, rows = pcall(files.open, path)
    if not opened then error(("data set \"%s\": %s; set data.files.%s"):format(name, tostring(rows), name), 0) end
    raw_rows = {
      n = rows:count(),
      get = function(i) return rows:get(i) end,
      at = function(i) return ("%s:%d"):format(path, rows:line(i)) end,
    }
    shown = "from " .. path
  end

  local options, row_of, keep = set.options, module.row, module.keep
  local function make(i, raw)
    local good, row = pcall(row_of, raw, options)
    if not good then error(("%s: %s"):format(raw_rows.at(i), tostring(row)), 0) end
    if row == nil then return nil end
    check_row(row, place, raw_rows.at(i))
    if row.source == nil then row.source = name end
    return row
  end

  -- One pass decides which rows there are; they are made again when they are asked for.
  local places, n_kept, filtered, skipped, first_skip = {}, 0, 0, 0, nil
  for i = 1, raw_rows.n do
    local raw = raw_rows.get(i)
    local why = type(raw) ~= "table" and "the row is no object" or bad_column(module, raw)
    local kept = true
    if not why and keep then
      local good, answer = pcall(keep, raw, options)
      if not good then error(("%s: %s"):format(raw_rows.at(i), tostring(answer)), 0) end
      kept = answer
    end
    if why then
      skipped = skipped + 1
      first_skip = first_skip or ("%s: %s"):format(raw_rows.at(i), why)
    elseif not kept then
      filtered = filtered + 1
    elseif make(i, raw) == nil then
      skipped = skipped + 1
      first_skip = first_skip or ("%s: row() of %s returned nil"):format(raw_rows.at(i), place)
    else
      n_kept = n_kept + 1
      places[n_kept] = i
    end
  end
  if skipped > 0.05 * raw_rows.n then
    error(("%s; %d of %d rows were skipped like this, at most 5 %% may be: this is not the file that \"%s\" reads")
      :format(first_skip, skipped, raw_rows.n, name), 0)
  end
  if skipped > 0 then log.warn(("%s: %d rows skipped; the first: %s"):format(name, skipped, first_skip)) end
  ctx.report[#ctx.report + 1] =
    ("%s: %d rows %s, %d filtered, %d skipped"):format(name, n_kept, shown, filtered, skipped)
  return { n = n_kept, get = function(i) return make(places[i], raw_rows.get(places[i])) end }
end

function open.list(set)
  local rows = set.rows
  return {
    n = #rows,
    get = function(i)
      local copy = {} -- a row may be changed by map; the recipe's list may not
      for k, v in pairs(rows[i]) do copy[k] = v end
      return copy
    end,
  }
end

local function open_all(list, ctx)
  local views, present = {}, {}
  for i = 1, #list do
    local view = M.open(list[i], ctx)
    if view then
      views[#views + 1] = view
      present[#present + 1] = i
    end
  end
  return views, present
end

function open.concatenate(set, ctx)
  local views = open_all(set.list, ctx)
  if #views == 0 then return nil end
  local n, starts = 0, {}
  for i, view in ipairs(views) do
    starts[i] = n
    n = n + view.n
  end
  return {
    n = n,
    get = function(i)
      local v = #views
      while starts[v] >= i do v = v - 1 end
      return views[v].get(i - starts[v])
    end,
  }
end

-- The order of an interleaving: which source and which of its rows, for each place.
local function in_turn(lengths, strategy)
  local source, row, n = {}, {}, 0
  local shortest, longest = math.huge, 0
  for _, len in ipairs(lengths) do
    shortest, longest = math.min(shortest, len), math.max(longest, len)
  end
  for round = 1, strategy == "first_exhausted" and shortest or longest do
    for s, len in ipairs(lengths) do
      if round <= len or strategy == "all_exhausted" then
        n = n + 1
        source[n], row[n] = s, (round - 1) % len + 1
      end
    end
  end
  return source, row, n
end

local function by_probability(lengths, p, seed, strategy)
  local source, row, n = {}, {}, 0
  local cdf, sum, last = {}, 0, 0
  for s = 1, #p do
    sum = sum + p[s]
    cdf[s] = sum
    if p[s] > 0 then last = s end
  end
  for s = 1, #p do cdf[s] = cdf[s] / sum end
  local open_left = 0 -- drawable sources that are not exhausted
  for s = 1, #p do
    if p[s] > 0 then open_left = open_left + 1 end
  end
  local all = open_left
  local done, pos = {}, {}
  local random = rng.pcg64(seed)
  while true do
    local u, s = random:double(), 1
    while cdf[s] <= u and s < last do s = s + 1 end
    if strategy == "first_exhausted" then
      if open_left < all then break end
    elseif open_left == 0 then
      break
    end
    if not (done[s] and strategy == "all_exhausted_without_replacement") then
      local at = (pos[s] or 0) + 1
      n = n + 1
      source[n], row[n] = s, at
      pos[s] = at % lengths[s]
      if at == lengths[s] and not done[s] then
        done[s] = true
        open_left = open_left - 1
      end
    end
  end
  return source, row, n
end

function open.interleave(set, ctx)
  local views, present = open_all(set.list, ctx)
  if #views == 0 then return nil end
  local lengths, p = {}, set.probabilities and {}
  for k, i in ipairs(present) do
    lengths[k] = views[k].n
    if p then p[k] = set.probabilities[i] end
    if lengths[k] == 0 and not (p and p[k] == 0) then
      error(("%s: interleave: %s has no rows"):format(ctx.place, M.describe(set.list[i])), 0)
    end
  end
  if p then
    local sum = 0
    for k = 1, #p do sum = sum + p[k] end
    if sum <= 0 then error(ctx.place .. ": interleave: no data set with a probability above 0 is left", 0) end
  end
  local source, row, n
  if p then source, row, n = by_probability(lengths, p, set.seed, set.strategy)
  else source, row, n = in_turn(lengths, set.strategy) end
  return { n = n, get = function(i) return views[source[i]].get(row[i]) end }
end

function open.shuffle(set, ctx)
  local view = M.open(set.from, ctx)
  return view and sub_view(view, rng.pcg64(set.seed):permutation(view.n))
end

function open.take(set, ctx)
  local view = M.open(set.from, ctx)
  return view and { n = math.min(set.n, view.n), get = view.get }
end

function open.skip(set, ctx)
  local view = M.open(set.from, ctx)
  if not view then return nil end
  local get, n = view.get, set.n
  return { n = math.max(0, view.n - n), get = function(i) return get(i + n) end }
end

function open.select(set, ctx)
  local view = M.open(set.from, ctx)
  if not view then return nil end
  for k, place in ipairs(set.places) do
    if not whole(place, 1) or place > view.n then
      error(("%s: select: place %d is %s, want 1 to %d"):format(ctx.place, k, tostring(place), view.n), 0)
    end
  end
  return sub_view(view, set.places)
end

function open.split(set, ctx)
  local view = M.open(set.from, ctx)
  if not view then return nil end
  local n_test = math.ceil(set.test_size * view.n)
  local n_train = math.floor((1 - set.test_size) * view.n)
  local order, places = rng.pcg64(set.seed):permutation(view.n), {}
  local first, n = 0, n_test
  if set.part == "train" then first, n = n_test, n_train end
  for i = 1, n do places[i] = order[first + i] end
  return sub_view(view, places)
end

local function call(f, row, i, what)
  local ok, result = pcall(f, row)
  if not ok then error(("%s of row %d: %s"):format(what, i, tostring(result)), 0) end
  return result
end

function open.filter(set, ctx)
  local view = M.open(set.from, ctx)
  if not view then return nil end
  local places = {}
  for i = 1, view.n do
    if call(set.f, view.get(i), i, "filter") then places[#places + 1] = i end
  end
  ctx.report[#ctx.report + 1] = ("%s kept %d of %d rows"):format(M.describe(set), #places, view.n)
  return sub_view(view, places)
end

function open.map(set, ctx)
  local view = M.open(set.from, ctx)
  if not view then return nil end
  local get, f = view.get, set.f
  return {
    n = view.n,
    get = function(i)
      local row = call(f, get(i), i, "map")
      if type(row) ~= "table" then
        error(("%s: map returned a %s for row %d, want a row"):format(host.where(f), type(row), i), 0)
      end
      return row
    end,
  }
end

function open.rename(set, ctx)
  local view = M.open(set.from, ctx)
  if not view then return nil end
  local get, old, new = view.get, set.old, set.new
  return {
    n = view.n,
    get = function(i)
      local row = get(i)
      row[new], row[old] = row[old], nil
      return row
    end,
  }
end

--- Opens a plan. ctx: place (for messages), files (data.files of the recipe), report (a list that gets lines).
function M.open(set, ctx)
  return open[set.op](set, ctx)
end

return M
