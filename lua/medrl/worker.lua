--- What a worker does with a recipe: merge, override, open rewards and data, run cases. Called by the program, not by
--- scripts.
local data = require "medrl.data"
local host = require "medrl.host"
local json = require "medrl.json"
local text = require "medrl.text"

local M = {}

local recipe, place -- the resolved table and its file's name
local views = {}    -- opened splits

local function fail(message, ...)
  error(message:format(...), 0)
end

-- While rows are opened or made, most faults are the data's. This one is the recipe's: the mark tells the program.
local function recipe_fault(message, ...)
  error(host.recipe_fault .. message:format(...), 0)
end

local function is_plain(t)
  return type(t) == "table" and not data.is_set(t) and #t == 0 and not json.is_array(t)
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
    if type(at) ~= "table" or data.is_set(at) then
      fail("--set %s: \"%s\" is a %s, so nothing below it can be set", assignment, seen,
        data.is_set(at) and "data set" or type(at))
    end
  end
end

-- The recipe as plain data: what is code stays here and is described.
local function plain(value, path, depth)
  if depth > 32 then fail("%s: %s is nested too deep, or inside itself", place, path) end
  local kind = type(value)
  if data.is_set(value) then return { dataset = data.describe(value) } end
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

local function options_of(module, given, where)
  local declared, options = module.options or {}, {}
  for key, value in pairs(declared) do options[key] = value end
  for key, value in pairs(given) do
    if key ~= 1 and key ~= "name" and (key ~= "weight" or declared.weight ~= nil) then
      if declared[key] == nil then fail("%s: unknown option \"%s\"", where, tostring(key)) end
      if type(value) ~= type(declared[key]) then
        fail("%s: option \"%s\" is a %s, want a %s", where, key, type(value), type(declared[key]))
      end
      options[key] = value
    end
  end
  return options
end

local function check_reward(module, file)
  if type(module) ~= "table" then
    fail("%s: the file returned a %s, want a table with a function score", file, type(module))
  end
  if module.score == nil and module.score_batch ~= nil then
    fail("%s: score_batch is not in this version; write score(completion, row, info), which sees one completion", file)
  end
  if module.score == nil then fail("%s: score is missing, want a function score(completion, row, info)", file) end
  if type(module.score) ~= "function" then fail("%s: score is a %s, want a function", file, type(module.score)) end
  local name = file:match("([^/]+)%.lua$")
  if module.name ~= nil and module.name ~= name then
    fail("%s: M.name is \"%s\", want the file's name \"%s\"", file, tostring(module.name), tostring(name))
  end
  local range = module.range
  local low, high
  if type(range) == "table" then low, high = range[1], range[2] end
  if range ~= nil and not (type(low) == "number" and type(high) == "number" and low <= high) then
    fail("%s: range is not { lowest, highest }", file)
  end
  return name
end

local function short(s)
  s = tostring(s):gsub("\n", "\\n")
  return #s > 60 and s:sub(1, 60) .. "..." or s
end

local function same_score(got, want)
  if got == nil or want == nil then return got == want end
  return type(got) == "number" and got == got and math.abs(got - want) <= 1e-9
end

-- Runs M.cases; gives how many passed and a list of failures.
local function reward_cases(module, file)
  local passed, failures = 0, {}
  for i, case in ipairs(module.cases or {}) do
    local completion = case.completion or case[1]
    local row, want = case.row or case[2] or {}, case.score
    if want == nil then want = case[3] end
    if type(completion) ~= "string" then
      failures[#failures + 1] = ("%s: case %d has no completion"):format(file, i)
    else
      local info = { n_tokens = text.ulen(completion), truncated = false, prompt = "", step = 0 }
      for key, value in pairs(case.info or {}) do info[key] = value end
      info.options = options_of(module, case.options or {}, file)
      local ok, got = pcall(module.score, completion, row, info)
      if not ok then
        failures[#failures + 1] = ("%s: case %d (\"%s\"): %s"):format(file, i, short(completion), tostring(got))
      elseif not same_score(got, want) then
        failures[#failures + 1] = ("%s: case %d (\"%s\"): got %s, want %s"):format(
          file, i, short(completion), tostring(got), tostring(want))
      elseif got and module.range and (got < module.range[1] or got > module.range[2]) then
        failures[#failures + 1] = ("%s: case %d: %g lies outside the range %g to %g"):format(
          file, i, got, module.range[1], module.range[2])
      else
        passed = passed + 1
      end
    end
  end
  return passed, failures
end

-- What the trainer reads of an entry: its name, and its weight when it has one.
local function shown_reward(name, entry)
  if type(entry) == "table" and entry.weight ~= nil then return { name = name, weight = entry.weight } end
  return name
end

local function open_rewards(entries, with_cases)
  local rewards, names, taken = {}, json.array({}), {}
  if type(entries) ~= "table" then fail("%s: rewards is a %s, want a list of names", place, type(entries)) end
  for i, entry in ipairs(entries) do
    local given = type(entry) == "table" and entry or { entry }
    local asked = given.name or given[1]
    if type(asked) ~= "string" then
      fail("%s: rewards[%d] is a %s, want a name or { \"name\", option = value }", place, i, type(asked))
    end
    local module_name = asked:find("[./]") and asked or "rewards." .. asked
    local ok, module = pcall(require, module_name)
    if not ok then
      local why = tostring(module)
      fail("%s", why:find("%.lua:%d") and why or ("%s: rewards[%d]: %s"):format(place, i, why))
    end
    local file = host.place(module_name)
    local name = check_reward(module, file)
    if taken[name] then fail("%s: reward \"%s\" is there twice", place, name) end
    taken[name] = true
    if with_cases then
      local _, failures = reward_cases(module, file)
      if failures[1] then fail("%s", failures[1]) end
    end
    names[i] = shown_reward(name, entry)
    rewards[i] = {
      name = name, place = file, score = module.score,
      options = options_of(module, given, ("%s: rewards[%d] (%s)"):format(place, i, name)),
      low = module.range and module.range[1], high = module.range and module.range[2],
    }
  end
  return rewards, names
end

-- The names of the data sets that a plan reads.
local function add_names(set, names)
  if set.op == "get" then names[set.name] = true end
  if data.is_set(set.from) then add_names(set.from, names) end
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
    if data.is_set(section[split]) then add_names(section[split], names) end
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

--- spec: on_cpu, overrides, cases. Gives the recipe as JSON and the list of rewards.
function M.open(spec)
  recipe = require "@main"
  place = host.place "@main"
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
  local rewards, names = open_rewards(recipe.rewards == nil and {} or recipe.rewards, spec.cases)
  local shown = {}
  for key, value in pairs(recipe) do shown[key] = value end
  if recipe.rewards ~= nil then shown.rewards = names end -- options stay with the scripts; the trainer knows names
  if other then shown.on_cpu = unused(other) end
  return json.encode(plain(shown, "", 0)), rewards
end

-- Rows.

--- Opens data[split]; gives the number of rows and a report.
function M.rows(split)
  local section = recipe.data
  if section == nil then return 0, "" end
  if type(section) ~= "table" then recipe_fault("%s: data is a %s, want a table", place, type(section)) end
  local set = section[split]
  if set == nil or set == false then return 0, "" end
  if not data.is_set(set) then
    recipe_fault("%s: data.%s is a %s, want a data set (data.get \"NAME\")", place, split, type(set))
  end
  local files = section.files or {}
  if type(files) ~= "table" then
    recipe_fault("%s: data.files is a %s, want { name = \"PATH\" }", place, type(files))
  end
  local ctx = { place = place, files = files, report = {} }
  local view = data.open(set, ctx)
  if not view then recipe_fault("%s: data.%s: every data set in it is left out", place, split) end
  if view.n == 0 then fail("%s: data.%s has no rows: %s", place, split, table.concat(ctx.report, "; ")) end
  views[split] = view
  return view.n, #ctx.report > 0 and table.concat(ctx.report, "\n") .. "\n" or ""
end

-- The shots for a row: one list for all, or by data set with "default" for the rest.
local function shots_for(row)
  local shots = recipe.data.shots
  if shots == nil then return {} end
  if #shots > 0 then return shots end
  return shots[row.source] or shots[row.db_set or ""] or shots.default or {}
end

-- [system, shots, the row's own messages], with the recipe's system prompt unless the row brings one.
local function compose(row)
  local messages = {}
  local first = 1
  if row.messages[1].role == "system" then
    messages[1], first = row.messages[1], 2
  else
    local system = recipe.data.system
    if system == nil then system = require("datasets.template").system end
    if system ~= "" then messages[1] = { role = "system", content = system } end
  end
  for _, shot in ipairs(shots_for(row)) do messages[#messages + 1] = { role = shot.role, content = shot.content } end
  for i = first, #row.messages do
    messages[#messages + 1] = { role = row.messages[i].role, content = row.messages[i].content }
  end
  return messages
end

--- Row `index` (from 0) of a split: messages as JSON, everything else as JSON, and the name of its source.
function M.row(split, index)
  local view = views[split]
  if not view then fail("%s: data.%s is not open", place, split) end
  local row = view.get(index + 1)
  if type(row.messages) ~= "table" or #row.messages == 0 then
    fail("%s: data.%s row %d has no messages", place, split, index)
  end
  local messages = compose(row)
  local rest = {}
  for key, value in pairs(row) do
    if key ~= "messages" then rest[key] = value end
  end
  return json.encode(messages), json.encode(rest), tostring(row.db_set or row.kind or row.source or "")
end

-- `medrl test FILE`.

-- Whether `got` has everything that `want` names.
local function covers(got, want, path)
  if type(want) ~= "table" then
    if got == want then return true end
    return false, ("%s is %s, want %s"):format(path, short(got), short(want))
  end
  if type(got) ~= "table" then return false, ("%s is %s, want a table"):format(path, short(got)) end
  for key, value in pairs(want) do
    local ok, why = covers(got[key], value, path == "" and tostring(key) or path .. "." .. tostring(key))
    if not ok then return false, why end
  end
  return true
end

local function dataset_cases(module, file)
  local passed, failures = 0, {}
  for i, case in ipairs(module.cases or {}) do
    local raw, want, options = case.raw or case[1], case.row or case[2], case.options or {}
    local ok, got = pcall(function()
      if module.keep and not module.keep(raw, options) then return nil end
      return module.row(raw, options)
    end)
    local why
    if not ok then why = tostring(got)
    elseif want == nil then why = got ~= nil and "got a row, want it left out" or nil
    elseif got == nil then why = "the row was left out"
    else
      local fits, difference = covers(got, want, "")
      why = not fits and difference or nil
    end
    if why then failures[#failures + 1] = ("%s: case %d: %s"):format(file, i, why) else passed = passed + 1 end
  end
  return passed, failures
end

--- Loads the main file and runs its cases: how many passed, how many failed, one line a failure.
function M.test()
  local module = require "@main"
  local file = host.place "@main"
  local passed, failures = 0, {}
  if type(module) == "table" and type(module.score) == "function" then
    check_reward(module, file)
    passed, failures = reward_cases(module, file)
  elseif type(module) == "table" and type(module.row) == "function" then
    passed, failures = dataset_cases(module, file)
  elseif type(module) == "table" and type(module.render) == "function" then
    passed, failures = require("medrl.template").run_cases(module, file)
  end
  local lines = #failures > 0 and table.concat(failures, "\n") .. "\n" or ""
  return passed + 1, #failures, lines -- that it loads is the first test
end

return M
