--- What a worker does with a recipe: merge, override, open rewards and data, run cases. Called by the program, not by
--- scripts.
---
--- A worker that only scores starts again for each call that hung or crashed, so it loads no more than it needs: cases
--- (medrl.cases), data sets (medrl.data, medrl.views) and rows (medrl.rows) come when they are asked for.
local host = require "medrl.host"
local json = require "medrl.json"
local reward = require "medrl.reward"

local M = {}

local recipe, place -- the resolved table and its file's name
local listed = {}   -- files that the program named as rewards: what they are asked for by

local function fail(message, ...)
  error(message:format(...), 0)
end

local data -- medrl.data, once there is something that can only come from it

local function is_set(x)
  if type(x) ~= "table" or rawget(x, "_tag") == nil then return false end
  data = data or require "medrl.data"
  return data.is_set(x)
end

local function is_plain(t)
  return type(t) == "table" and not is_set(t) and #t == 0 and not json.is_array(t)
end

-- Tables of names are merged key by key; lists, data sets and values replace.
local function merge(into, from)
  for key, value in pairs(from) do
    if is_plain(value) and is_plain(into[key]) then merge(into[key], value) else into[key] = value end
  end
end

local function parse_value(s)
  local ok, value = pcall(json.decode, s)
  if ok then return value end
  return s
end

--- "grpo.max_steps=20" on the table that the recipe returned.
local function override(assignment)
  local path, value = assignment:match("^([%w_%.%-]+)=(.*)$")
  if not path or path:find("%.%.") or path:find("^%.") or path:find("%.$") then
    fail("--set %s: want NAME.NAME=VALUE", assignment)
  end
  local at, seen = recipe, nil
  local names = {}
  for name in path:gmatch("[^%.]+") do names[#names + 1] = name end
  for i, name in ipairs(names) do
    local key = (#at > 0 and tonumber(name)) or name
    if i == #names then
      at[key] = parse_value(value)
      if at[key] == json.null then at[key] = nil end
      return
    end
    seen = seen and seen .. "." .. name or name
    if at[key] == nil then at[key] = {} end
    at = at[key]
    if type(at) ~= "table" or is_set(at) then
      fail("--set %s: \"%s\" is a %s, so nothing below it can be set", assignment, seen,
        is_set(at) and "data set" or type(at))
    end
  end
end

-- The recipe as plain data: what is code stays here and is described.
local function plain(value, path, depth)
  if depth > 32 then fail("%s: %s is nested too deep, or inside itself", place, path) end
  local kind = type(value)
  if is_set(value) then return { dataset = data.describe(value) } end
  if kind == "function" then return { ["function"] = host.where(value) } end
  if kind ~= "table" then
    if kind == "number" and value ~= value then fail("%s: %s is NaN", place, path) end
    if kind == "userdata" and value ~= json.null then
      fail("%s: %s is an object of a library, want data", place, path)
    end
    return value
  end
  local list = json.is_array(value)
  local copy = list and json.array({}) or {}
  for key, inner in pairs(value) do
    if type(key) ~= "string" and not (type(key) == "number" and list) then
      fail("%s: %s mixes a list with names; want one of the two", place, path == "" and "the recipe" or path)
    end
    copy[key] = plain(inner, path == "" and tostring(key) or path .. "." .. tostring(key), depth + 1)
  end
  return copy
end

-- Rewards.

-- What the trainer reads of an entry: its name, and its weight when it has one.
local function shown_reward(name, entry)
  if type(entry) == "table" and entry.weight ~= nil then return { name = name, weight = entry.weight } end
  return name
end

-- What `medrl test --fuzz` is to let pass: M.fuzz = { allow = { exploit = "reason" or { reason =, up_to = } } }, with
-- "*" for all that are not named.
local function allowed(module, file)
  local allow = type(module.fuzz) == "table" and module.fuzz.allow or {}
  if type(allow) ~= "table" then fail("%s: fuzz.allow is a %s, want { exploit = \"reason\" }", file, type(allow)) end
  for name, reason in pairs(allow) do
    if type(reason) == "table" then
      if reason.up_to ~= nil and type(reason.up_to) ~= "number" then
        fail("%s: fuzz.allow: \"%s\": up_to is a %s, want a number", file, tostring(name), type(reason.up_to))
      end
      reason = reason.reason
    end
    if type(name) ~= "string" or type(reason) ~= "string" or #reason < 10 then
      fail("%s: fuzz.allow: \"%s\" has no reason, want a sentence", file, tostring(name))
    end
  end
  return allow
end

-- "NAME:option=value,option=value" or "path/to/file.lua:..." as an entry of `rewards`.
local function parse_reward(spec)
  local name, rest = spec:match("^(.-%.lua):(.*)$")
  if not name then name, rest = spec:match("^([^:]*):(.*)$") end
  local entry = { name = name or spec }
  for part in (rest or ""):gmatch("[^,]+") do
    local key, value = part:match("^([%a_][%w_]*)=(.*)$")
    if not key then fail("%s: \"%s\" is no option, want NAME:option=value,option=value", spec, part) end
    entry[key] = parse_value(value)
  end
  return entry
end

-- with_allowed: an entry tells what it allows to exploits (the main file is lua/medrl/exploits.lua).
local function open_rewards(entries, with_cases, with_allowed)
  local rewards, names, taken = { cases = "" }, json.array({}), {}
  if type(entries) ~= "table" then fail("%s: rewards is a %s, want a list of names", place, type(entries)) end
  for i, entry in ipairs(entries) do
    local given = type(entry) == "table" and entry or { entry }
    local asked = given.name or given[1]
    if type(asked) ~= "string" then
      fail("%s: rewards[%d] is a %s, want a name or { \"name\", option = value }", place, i, type(asked))
    end
    local module_name = listed[asked] or (asked:find("[./]") and asked or "rewards." .. asked)
    local ok, module = pcall(require, module_name)
    if not ok then
      local why = tostring(module)
      fail("%s", why:find("%.lua:%d") and why or ("%s: rewards[%d]: %s"):format(place, i, why))
    end
    local file = host.place(module_name)
    local name = reward.check_reward(module, file)
    if taken[name] then fail("%s: reward \"%s\" is there twice", place, name) end
    taken[name] = true
    if with_cases then
      local passed, failures = 0, {}
      if module.cases ~= nil then passed, failures = require("medrl.cases").reward(module, file) end
      if failures[1] then fail("%s", require("medrl.cases").line(file, failures[1])) end
      rewards.cases = rewards.cases .. ("%s\t%d\n"):format(file, passed)
    end
    names[i] = shown_reward(name, entry)
    if with_allowed then
      names[i] = { name = name, weight = type(entry) == "table" and entry.weight or nil, allow = allowed(module, file) }
    end
    rewards[i] = {
      name = name, place = file, score = module.score or module.score_batch, batch = module.score_batch ~= nil,
      options = reward.options_of(module, given, ("%s: rewards[%d] (%s)"):format(place, i, name)),
      on_error = reward.on_error(module, entry, file, ("%s: rewards[%d]"):format(place, i)),
      low = module.range and module.range[1], high = module.range and module.range[2],
    }
  end
  return rewards, names
end

-- The names of the data sets that a plan reads.
local function add_names(set, names)
  if set.op == "get" then names[set.name] = true end
  if is_set(set.from) then add_names(set.from, names) end
  for _, inner in ipairs(set.list or {}) do add_names(inner, names) end
end

local data_keys = { train = true, eval = true, files = true, system = true, shots = true }

-- Names in `data` that nothing reads are mistakes: a file that is named wrongly would be left out without a word.
local function check_data(section)
  if type(section) ~= "table" then return end
  local unknown, names = {}, {}
  for key in pairs(section) do
    if not data_keys[key] then unknown[#unknown + 1] = tostring(key) end
  end
  table.sort(unknown)
  if unknown[1] then
    fail("%s: unknown key \"data.%s\", want train, eval, files, system or shots", place, unknown[1])
  end
  for _, split in ipairs { "train", "eval" } do
    if is_set(section[split]) then add_names(section[split], names) end
  end
  if type(section.files) ~= "table" then return end
  for key in pairs(section.files) do
    if not names[key] then unknown[#unknown + 1] = tostring(key) end
  end
  table.sort(unknown)
  if not unknown[1] then return end
  local known = {}
  for name in pairs(names) do known[#known + 1] = name end
  table.sort(known)
  fail("%s: data.files.%s: the recipe reads no data set of that name, it reads %s", place, unknown[1],
    #known > 0 and table.concat(known, ", ") or "none")
end

-- The cases of the data sets that the recipe reads: "FILE<tab>how many passed" line by line, as of the rewards.
local function check_sets(section)
  local names, sorted, passed = {}, {}, ""
  for _, split in ipairs { "train", "eval" } do
    if type(section) == "table" and is_set(section[split]) then add_names(section[split], names) end
  end
  for name in pairs(names) do sorted[#sorted + 1] = name end
  table.sort(sorted)
  for _, name in ipairs(sorted) do
    local module_name = name:find("[./]") and name or "datasets." .. name
    local ok, module = pcall(require, module_name)
    if ok and type(module) == "table" and type(module.row) == "function" then
      local cases = require "medrl.cases"
      local n, failures = cases.dataset(module)
      if failures[1] then fail("%s", cases.line(host.place(module_name), failures[1])) end
      passed = passed .. ("%s\t%d\n"):format(host.place(module_name), n)
    end
  end
  return passed
end

-- on_cpu where it is not used: handed over as it stands, so that its keys are looked at on every machine.
local function unused(on_cpu)
  local copy = {}
  for key, value in pairs(on_cpu) do copy[key] = value end
  if type(copy.rewards) == "table" then
    local names = json.array({})
    for i, entry in ipairs(copy.rewards) do
      names[i] = type(entry) == "table" and shown_reward(entry.name or entry[1], entry) or entry
    end
    copy.rewards = names
  end
  return copy
end

--- spec: on_cpu, overrides, cases; rewards: a list that takes the place of the recipe's; bare: there is no recipe.
--- Gives the recipe as JSON and the list of rewards.
function M.open(spec)
  if spec.bare then
    recipe, place = {}, "--reward"
  else
    recipe = require "@main"
    place = host.place "@main"
  end
  if recipe == true then fail("%s: the file returns nothing, want a recipe: end it with return { ... }", place) end
  if type(recipe) ~= "table" then fail("%s: the file returned a %s, want a recipe (a table)", place, type(recipe)) end
  if recipe.on_cpu ~= nil and type(recipe.on_cpu) ~= "table" then
    fail("%s: on_cpu is a %s, want a table", place, type(recipe.on_cpu))
  end
  if spec.on_cpu and recipe.on_cpu then merge(recipe, recipe.on_cpu) end
  local other = not spec.on_cpu and recipe.on_cpu or nil
  recipe.on_cpu = nil
  for _, assignment in ipairs(spec.overrides) do override(assignment) end
  check_data(recipe.data)
  if spec.rewards[1] then
    recipe.rewards = {}
    for i, asked in ipairs(spec.rewards) do
      local entry = parse_reward(asked)
      if entry.name:find("%.lua$") then listed[entry.name] = "@" .. entry.name end
      recipe.rewards[i] = entry
    end
  end
  local rewards, names = open_rewards(recipe.rewards == nil and {} or recipe.rewards, spec.cases,
    recipe.exploits ~= nil)
  if spec.cases then rewards.cases = rewards.cases .. check_sets(recipe.data) end
  local shown = {}
  for key, value in pairs(recipe) do shown[key] = value end
  if recipe.rewards ~= nil then shown.rewards = names end -- options stay with the scripts; the trainer knows names
  if other then shown.on_cpu = unused(other) end
  return json.encode(plain(shown, "", 0)), rewards
end

-- Rows: medrl.rows, for the one worker that is asked for them.

local rows

local function of_rows()
  rows = rows or require("medrl.rows").of(recipe, place)
  return rows
end

function M.rows(...) return of_rows().rows(...) end
function M.row(...) return of_rows().row(...) end
function M.survey(...) return of_rows().survey(...) end

-- `medrl test FILE`.

--- Loads the main file and runs its cases: how many passed, how many failed, what failed for people, and as JSON.
function M.test()
  local cases, module = require "medrl.cases", require "@main"
  local file = host.place "@main"
  local passed, failures, kind = 0, {}, "module"
  if type(module) == "table" and (module.score ~= nil or module.score_batch ~= nil) then
    kind = "reward"
    reward.check_reward(module, file)
    passed, failures = cases.reward(module, file)
  elseif type(module) == "table" and type(module.row) == "function" then
    kind = "dataset"
    passed, failures = cases.dataset(module)
  elseif type(module) == "table" and type(module.render) == "function" then
    kind = "template"
    passed, failures = require("medrl.template").run_cases(module, file)
  elseif type(module) == "table" and type(module.model) == "table" then
    kind = "recipe"
  end
  local lines = {}
  for i, f in ipairs(failures) do lines[i] = cases.block(file, f) .. "\n" end
  local report = { file = file, kind = kind, passed = passed + 1, failed = #failures, failures = json.array(failures) }
  return passed + 1, #failures, table.concat(lines), json.encode(report) -- that it loads is the first test
end

return M
