--- Data sets that are opened: what the plans of medrl.data become when the run asks for rows. A view is { n = number of
--- rows, get = function(i), at = function(i) }, i from 1; get gives the row, made anew each time, at says where it is
--- from ("train.jsonl:17"). nil is a set that was left out with "none". Called by medrl.data, not by scripts.
local data = require "medrl.data"
local files = require "medrl.files"
local host = require "medrl.host"
local json = require "medrl.json"
local layout = require "medrl.layout"
local log = require "medrl.log"
local rng = require "medrl.rng"

local M = {}

local function whole(x, low)
  return type(x) == "number" and x >= low and x == math.floor(x)
end

local function sub_view(view, places)
  local get, at = view.get, view.at
  return { n = #places, get = function(i) return get(places[i]) end, at = function(i) return at(places[i]) end }
end

-- Counts of rows that are dropped, by reason; past MAX_REASONS different ones they are counted together.
local MAX_REASONS, MAX_REASON = 20, 160

local function new_reasons()
  return { list = {}, by_text = {} }
end

local function count_reason(reasons, what, reason, at)
  local known = reasons.by_text[what .. reason]
  if not known then
    if #reasons.list >= MAX_REASONS then reason = "for other reasons" end
    known = reasons.by_text[what .. reason]
    if not known then
      known = { what = what, reason = reason, rows = 0, first = at }
      reasons.by_text[what .. reason] = known
      reasons.list[#reasons.list + 1] = known
    end
  end
  known.rows = known.rows + 1
end

-- The second value that a function returned beside false or nil.
local function reason_text(given, default)
  if given == nil then return default end
  given = tostring(given):gsub("%c", " ")
  return #given > MAX_REASON and given:sub(1, MAX_REASON):gsub("[\128-\255]*$", "") .. "..." or given
end

-- An entry of the report: lines for people, the same as a table for programs.
local function add_report(ctx, line, entry, reasons)
  local list = json.array({})
  for i, r in ipairs(reasons and reasons.list or {}) do list[i] = r end
  table.sort(list, function(a, b)
    if a.rows ~= b.rows then return a.rows > b.rows end
    return a.what .. a.reason < b.what .. b.reason
  end)
  entry.reasons = list
  local lines = { line }
  for _, r in ipairs(list) do
    lines[#lines + 1] = ("  %d %s: %s (first: %s)"):format(r.rows, r.what, r.reason, r.first)
  end
  ctx.report[#ctx.report + 1] = { lines = table.concat(lines, "\n") .. "\n", entry = entry }
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

local function check_row(row, place, at, i)
  if type(row) ~= "table" then
    error(("%s: row() returned a %s for %s, want a table or nil"):format(place, type(row), at(i)), 0)
  end
  if type(row.messages) ~= "table" or #row.messages == 0 then
    error(("%s: row() returned no messages for %s; want a list of { role = , content = }"):format(place, at(i)), 0)
  end
  for k, m in ipairs(row.messages) do
    if type(m) ~= "table" or type(m.role) ~= "string" or type(m.content) ~= "string" then
      error(("%s: message %d of %s has no role or content"):format(place, k, at(i)), 0)
    end
  end
  return row
end

local open = {}
local known_views = {} -- by plan

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

-- What a pass over many rows came to is kept from one start to the next; fewer are looked at as fast.
local MANY_ROWS = 20000

-- The result of a former pass as { places =, filtered =, skipped =, first_skip =, reasons = }; nil when there is none,
-- or when it does not fit (no file of ours, then).
local function recall(what, paths, n)
  local text = files.recall(what, paths)
  local ok, pass = pcall(json.decode, text or "")
  if not ok or type(pass) ~= "table" then return nil end
  if type(pass.places) ~= "table" or type(pass.reasons) ~= "table" then return nil end
  local last, kept = 0, pass.places
  for k = 1, #kept do
    if not whole(kept[k], last + 1) or kept[k] > n then return nil end
    last = kept[k]
  end
  if not whole(pass.filtered, 0) or not whole(pass.skipped, 0) or #kept + pass.filtered + pass.skipped ~= n then
    return nil
  end
  return pass
end

-- Rows of several files, one behind the other.
local function rows_of(paths)
  local list, starts, n = {}, {}, 0
  for k, path in ipairs(paths) do
    list[k], starts[k] = files.open(path), n
    n = n + list[k]:count()
  end
  local k = 1 -- the file that was read last: rows come in their order, mostly
  local function find(i)
    if i <= starts[k] then k = 1 end
    while k < #list and i > starts[k + 1] do k = k + 1 end
    return k, i - starts[k]
  end
  return {
    n = n,
    get = function(i)
      local at, row = find(i)
      return list[at]:get(row)
    end,
    at = function(i)
      local at, row = find(i)
      return ("%s:%d"):format(paths[at], list[at]:line(row))
    end,
  }
end

-- The files that path stands for: itself, or what a module with a place on the hub (M.hub) reads of a folder or a
-- repository.
local function paths_of(path, module, options)
  local hub = module.hub
  if type(hub) ~= "table" then return { path } end
  local want = { split = options.split or "train", config = options.config or hub.config,
                 parts = options.categories or hub.parts }
  -- of its own repository only what is wanted is downloaded; how another one is laid out nobody knows before
  local own = path:gsub("^hf:", ""):gsub("@.*", "") == hub.name
  local base, names = files.folder(path, own and want.config and want.config .. "/*" or nil)
  if not base then return { path } end
  local found, missing = layout.pick(names, want)
  if not found then error(("%s: %s"):format(path, missing), 0) end
  for k = 1, #found do found[k] = base .. found[k] end
  return found
end

function open.get(set, ctx)
  local name = set.name
  local path = source_path(set, ctx)
  if path == "none" then
    add_report(ctx, name .. ": left out", { kind = "source", name = name, left_out = true })
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
  local raw_rows, shown, paths
  if module.load and path == nil then
    local made = module.load(set.options)
    if type(made) ~= "table" or not whole(made.n, 0) or type(made.get) ~= "function" then
      error(("%s: load() returned a %s, want { n = , get = function(i) }"):format(place, type(made)), 0)
    end
    raw_rows = { n = made.n, get = made.get, at = function(i) return ("%s row %d"):format(name, i) end }
    shown = "made by " .. place
  else
    local given = path ~= nil
    if not given and type(module.hub) == "table" then path = module.hub.name end
    if type(path) ~= "string" or path == "" then
      error(("%s%s: no file for data set \"%s\": put the file there with data.files.%s = \"PATH\" (or "
        .. "--set data.files.%s=PATH; \"none\" leaves the set out)")
        :format(host.recipe_fault, ctx.place, name, name, name), 0)
    end
    local opened, rows = pcall(function()
      paths = paths_of(path, module, set.options)
      return rows_of(paths)
    end)
    if not opened then
      local why = tostring(rows)
      -- a name that has to be downloaded first is for the user to say, not a damaged file
      local absent = why:find("medrl pull", 1, true)
      if absent and not given then
        error(("%s%s: no file for data set \"%s\": put the file there with data.files.%s = \"PATH\" (\"none\" leaves "
          .. "the set out), or fetch it: %s"):format(host.recipe_fault, ctx.place, name, name, why), 0)
      end
      error(("%sdata set \"%s\": %s; set data.files.%s"):format(absent and host.recipe_fault or "", name, why, name), 0)
    end
    raw_rows, shown = rows, "from " .. path
  end

  local options, row_of, keep = set.options, module.row, module.keep
  local at, get_raw = raw_rows.at, raw_rows.get
  local function make(i, raw)
    local good, row, why = pcall(row_of, raw, options)
    if not good then error(("%s: row() (%s): %s"):format(at(i), host.where(row_of), tostring(row)), 0) end
    if row == nil then return nil, why end
    check_row(row, place, at, i)
    if row.source == nil then row.source = name end
    return row
  end

  -- One pass decides which rows there are; they are made again when they are asked for.
  local places, n_kept, filtered, skipped, first_skip = {}, 0, 0, 0, nil
  local reasons = new_reasons()
  local function skip(i, why)
    skipped = skipped + 1
    first_skip = first_skip or ("%s: %s"):format(at(i), why)
    count_reason(reasons, "skipped", why, at(i))
  end
  local many = paths and raw_rows.n >= MANY_ROWS
  local what = many and json.encode({ name, module_name, options, raw_rows.n })
  local known = many and recall(what, paths, raw_rows.n)
  if known then
    places, n_kept, filtered, skipped = known.places, #known.places, known.filtered, known.skipped
    first_skip, reasons.list = known.first_skip, known.reasons
  end
  for i = 1, known and 0 or raw_rows.n do
    files.tick()
    local raw = get_raw(i)
    local why = type(raw) ~= "table" and "the row is no object" or bad_column(module, raw)
    if why then
      skip(i, why)
    else
      local kept, reason = true, nil
      if keep then
        local good
        good, kept, reason = pcall(keep, raw, options)
        if not good then error(("%s: keep() (%s): %s"):format(at(i), host.where(keep), tostring(kept)), 0) end
      end
      if not kept then
        filtered = filtered + 1
        count_reason(reasons, "filtered", reason_text(reason, "keep() said no"), at(i))
      else
        local row
        row, reason = make(i, raw)
        if row == nil then
          skip(i, reason_text(reason, ("row() of %s returned nil"):format(place)))
        else
          n_kept = n_kept + 1
          places[n_kept] = i
        end
      end
    end
  end
  if skipped > 0.05 * raw_rows.n then
    error(("%s; %d of %d rows were skipped like this, at most 5 %% may be: this is not the file that \"%s\" reads")
      :format(first_skip, skipped, raw_rows.n, name), 0)
  end
  if many and not known then
    files.keep(what, paths, json.encode({ places = json.array(places), filtered = filtered, skipped = skipped,
      first_skip = first_skip, reasons = json.array(reasons.list) }))
  end
  if skipped > 0 then log.warn(("%s: %d rows skipped; the first: %s"):format(name, skipped, first_skip)) end
  add_report(ctx, ("%s: %d of %d rows %s, %d filtered, %d skipped"):format(name, n_kept, raw_rows.n, shown, filtered,
    skipped), { kind = "source", name = name, from = shown, rows = raw_rows.n, kept = n_kept, filtered = filtered,
    skipped = skipped }, reasons)
  return {
    n = n_kept,
    get = function(i)
      local row, why = make(places[i], get_raw(places[i]))
      if row == nil then -- it was a row in the pass: row() depends on something else than its arguments
        error(("%s: row() (%s) returned nil (%s) for a row that it made before; it must depend on the row alone")
          :format(at(places[i]), host.where(row_of), reason_text(why, "no reason")), 0)
      end
      return row
    end,
    at = function(i) return at(places[i]) end,
  }
end

function open.list(set)
  local rows = set.rows
  local function copy_of(value) -- a row may be changed by map; the recipe's list may not
    if type(value) ~= "table" then return value end
    local copy = json.is_array(value) and #value == 0 and json.array({}) or {}
    for k, v in pairs(value) do copy[k] = copy_of(v) end
    return copy
  end
  return {
    n = #rows,
    get = function(i) return copy_of(rows[i]) end,
    at = function(i) return ("row %d of a list"):format(i) end,
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

-- n rows of several views: find(i) gives a row's view and its place there.
local function mixed_view(n, find)
  return {
    n = n,
    get = function(i)
      local view, k = find(i)
      return view.get(k)
    end,
    at = function(i)
      local view, k = find(i)
      return view.at(k)
    end,
  }
end

function open.concatenate(set, ctx)
  local views = open_all(set.list, ctx)
  if #views == 0 then return nil end
  local n, starts = 0, {}
  for i, view in ipairs(views) do
    starts[i] = n
    n = n + view.n
  end
  local function find(i)
    local v = #views
    while starts[v] >= i do v = v - 1 end
    return views[v], i - starts[v]
  end
  return mixed_view(n, find)
end

-- The order of an interleaving: for each place which source and which of its rows, as row * SOURCES + source. One
-- number a place: eight bytes.
local SOURCES, MAX_PLACES = 1024, 2 ^ 25

local function in_turn(lengths, strategy)
  local order, n = {}, 0
  local shortest, longest = math.huge, 0
  for _, len in ipairs(lengths) do
    shortest, longest = math.min(shortest, len), math.max(longest, len)
  end
  for round = 1, strategy == "first_exhausted" and shortest or longest do
    for s, len in ipairs(lengths) do
      if round <= len or strategy == "all_exhausted" then
        n = n + 1
        order[n] = ((round - 1) % len + 1) * SOURCES + s
      end
    end
  end
  return order, n
end

local function by_probability(lengths, p, seed, strategy, where)
  local order, n = {}, 0
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
      if n > MAX_PLACES then
        error(("%s: interleave: after %d rows not every set is through (%s); raise the least probability"):format(where,
          n - 1, strategy), 0)
      end
      if n % 65536 == 0 then files.tick() end
      order[n] = at * SOURCES + s
      pos[s] = at % lengths[s]
      if at == lengths[s] and not done[s] then
        done[s] = true
        open_left = open_left - 1
      end
    end
  end
  return order, n
end

function open.interleave(set, ctx)
  local views, present = open_all(set.list, ctx)
  if #views == 0 then return nil end
  local lengths, p = {}, set.probabilities and {}
  for k, i in ipairs(present) do
    lengths[k] = views[k].n
    if p then p[k] = set.probabilities[i] end
    if lengths[k] == 0 and not (p and p[k] == 0) then
      error(("%s: interleave: %s has no rows"):format(ctx.place, data.describe(set.list[i])), 0)
    end
  end
  if p then
    local sum = 0
    for k = 1, #p do sum = sum + p[k] end
    if sum <= 0 then error(ctx.place .. ": interleave: no data set with a probability above 0 is left", 0) end
  end
  if #views >= SOURCES then error(("%s: interleave: %d data sets, at most %d can be"):format(ctx.place, #views,
    SOURCES - 1), 0) end
  local order, n
  if p then order, n = by_probability(lengths, p, set.seed, set.strategy, ctx.place)
  else order, n = in_turn(lengths, set.strategy) end
  local function find(i)
    local s = order[i] % SOURCES
    return views[s], (order[i] - s) / SOURCES
  end
  return mixed_view(n, find)
end

function open.shuffle(set, ctx)
  local view = M.open(set.from, ctx)
  return view and sub_view(view, rng.pcg64(set.seed):permutation(view.n))
end

function open.take(set, ctx)
  local view = M.open(set.from, ctx)
  return view and { n = math.min(set.n, view.n), get = view.get, at = view.at }
end

function open.skip(set, ctx)
  local view = M.open(set.from, ctx)
  if not view then return nil end
  local get, at, n = view.get, view.at, set.n
  return {
    n = math.max(0, view.n - n),
    get = function(i) return get(i + n) end,
    at = function(i) return at(i + n) end,
  }
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
  local f = set.test_size
  local n_test = math.ceil(f < 1 and f * view.n or f)
  local n_train = f < 1 and math.floor((1 - f) * view.n) or view.n - n_test
  if n_train < 0 then
    error(("%s: split: test_size is %d rows of %d"):format(ctx.place, f, view.n), 0)
  end
  local order, places = rng.pcg64(set.seed):permutation(view.n), {}
  local first, n = 0, n_test
  if set.part == "train" then first, n = n_test, n_train end
  for i = 1, n do places[i] = order[first + i] end
  return sub_view(view, places)
end

-- f(row, i) with the row's place and the function's in front of its error.
local function call(f, row, i, at, what)
  local ok, result, reason = pcall(f, row, i)
  if not ok then error(("%s: %s (%s): %s"):format(at(i), what, host.where(f), tostring(result)), 0) end
  return result, reason
end

function open.filter(set, ctx)
  local view = M.open(set.from, ctx)
  if not view then return nil end
  local f, get, at = set.f, view.get, view.at
  local places, n, reasons = {}, 0, new_reasons()
  for i = 1, view.n do
    files.tick()
    local kept, reason = call(f, get(i), i, at, "filter")
    if kept then
      n = n + 1
      places[n] = i
    else
      count_reason(reasons, "filtered", reason_text(reason, "the function said no"), at(i))
    end
  end
  add_report(ctx, ("%s kept %d of %d rows"):format(data.describe(set), n, view.n), { kind = "filter",
    name = data.describe(set), from = host.where(f), rows = view.n, kept = n, filtered = view.n - n, skipped = 0 },
    reasons)
  return sub_view(view, places)
end

-- A view that changes each row as it is asked for.
local function changed_view(view, change)
  local get, at = view.get, view.at
  return { n = view.n, get = function(i) return change(get(i), i, at) end, at = at }
end

function open.map(set, ctx)
  local view = M.open(set.from, ctx)
  if not view then return nil end
  local f, columns = set.f, set.columns or {}
  return changed_view(view, function(row, i, at)
    local new = call(f, row, i, at, "map")
    if type(new) ~= "table" then
      error(("%s: map (%s) returned a %s, want a row or a table of columns"):format(at(i), host.where(f), type(new)), 0)
    end
    for _, name in ipairs(columns) do row[name] = nil end
    if new ~= row then
      for key, value in pairs(new) do row[key] = value end
    end
    return row
  end)
end

-- A name that none of the first rows has is a slip of the pen, most likely. (A null in the file is no column either, so
-- a single row says nothing.)
local function watch(what, name)
  local seen, found = 0, false
  return function(present)
    if found or seen > 200 then return end
    found = present
    seen = seen + 1
    if seen == 200 and not found then log.warn(("%s: none of 200 rows has a column \"%s\""):format(what, name)) end
  end
end

function open.rename(set, ctx)
  local view = M.open(set.from, ctx)
  if not view then return nil end
  local old, new = set.old, set.new
  local note = watch("rename", old)
  return changed_view(view, function(row, i, at)
    local value = row[old]
    note(value ~= nil)
    if value == nil or old == new then return row end
    if row[new] ~= nil then
      error(("%s: rename: the row has a column \"%s\" already; remove it first (remove_columns)"):format(at(i), new), 0)
    end
    row[new], row[old] = value, nil
    return row
  end)
end

function open.remove_columns(set, ctx)
  local view = M.open(set.from, ctx)
  if not view then return nil end
  local columns, notes = set.columns, {}
  for k, name in ipairs(columns) do notes[k] = watch("remove_columns", name) end
  return changed_view(view, function(row)
    for k, name in ipairs(columns) do
      notes[k](row[name] ~= nil)
      row[name] = nil
    end
    return row
  end)
end

--- Opens a plan. ctx: place (for messages), files (data.files of the recipe), report (a list that gets, for
--- each source and each filter, { lines = for people, entry = for programs }).
--- A plan that two splits share (the two parts of a split, say) is opened once.
function M.open(set, ctx)
  local known = known_views[set]
  if not known then
    local own = { place = ctx.place, files = ctx.files, report = {} }
    known = { view = open[set.op](set, own), own = own }
    known_views[set] = known
  end
  for _, part in ipairs(known.own.report) do ctx.report[#ctx.report + 1] = part end
  return known.view
end

return M
