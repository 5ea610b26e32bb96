--- The rows of a recipe: opens its splits, makes rows, and surveys them. Called by the program, not scripts.
local cases = require "medrl.cases"
local data = require "medrl.data"
local files = require "medrl.files"
local host = require "medrl.host"
local json = require "medrl.json"

local function fail(message, ...)
  error(message:format(...), 0)
end

-- While rows are opened or made, most faults are the data's. This one is the recipe's: the mark tells the program.
local function recipe_fault(message, ...)
  error(host.recipe_fault .. message:format(...), 0)
end

local M = {}
local recipe, place -- the resolved table and its file's name
local views = {}    -- opened splits

--- Which recipe's rows they are: once, before all else. Gives this module.
function M.of(a_recipe, its_place)
  recipe, place = a_recipe, its_place
  return M
end

--- Opens data[split]; gives the number of rows, a report in lines and the same as JSON.
function M.rows(split)
  local section = recipe.data
  if section == nil then return 0, "", "[]" end
  if type(section) ~= "table" then recipe_fault("%s: data is a %s, want a table", place, type(section)) end
  local set = section[split]
  if set == nil or set == false then return 0, "", "[]" end
  if not data.is_set(set) then
    recipe_fault("%s: data.%s is a %s, want a data set (data.get \"NAME\")", place, split, type(set))
  end
  local paths = section.files or {}
  if type(paths) ~= "table" then
    recipe_fault("%s: data.files is a %s, want { name = \"PATH\" }", place, type(paths))
  end
  local ctx = { place = place, files = paths, report = {} }
  local view = data.open(set, ctx)
  if not view then recipe_fault("%s: data.%s: every data set in it is left out", place, split) end
  local lines, entries, seen = {}, json.array({}), {}
  for _, part in ipairs(ctx.report) do -- a source that two sets of a mix share is told once
    if not seen[part] then
      seen[part] = true
      lines[#lines + 1] = part.lines
      entries[#entries + 1] = part.entry
    end
  end
  local report = table.concat(lines)
  if view.n == 0 then
    local told = report:gsub("\n$", ""):gsub("\n *", "; ")
    fail("%s: data.%s has no rows: %s", place, split, told)
  end
  views[split] = view
  return view.n, report, json.encode(entries)
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

local function made_row(split, view, index)
  local row = view.get(index + 1)
  if type(row.messages) ~= "table" or #row.messages == 0 then
    fail("%s: data.%s row %d (%s) has no messages", place, split, index, view.at(index + 1))
  end
  return row
end

local function label(row)
  return tostring(row.db_set or row.kind or row.source or "")
end

--- Row `index` (from 0) of a split: messages as JSON, everything else as JSON, the name of its source, its place.
function M.row(split, index)
  local view = views[split]
  if not view then fail("%s: data.%s is not open", place, split) end
  local row = made_row(split, view, index)
  local messages = compose(row)
  local rest = {}
  for key, value in pairs(row) do
    if key ~= "messages" then rest[key] = value end
  end
  return json.encode(messages), json.encode(rest), label(row), view.at(index + 1)
end

-- Eight zero bytes: no question.
local NO_KEY = ("\0"):rep(8)

local function question_key(row)
  for i = #row.messages, 1, -1 do
    if row.messages[i].role == "user" then return files.key(row.messages[i].content) end
  end
  return NO_KEY
end

local function shown_answer(answer)
  if answer == nil then return "(none)" end
  if type(answer) == "table" then return "(a table)" end
  return cases.short(answer)
end

--- Looks at the rows [from, from + n) of a split: eight bytes a row that are equal when the last messages of the user
--- are, and what answers there are by source, as JSON.
function M.survey(split, from, n)
  local view = views[split]
  if not view then fail("%s: data.%s is not open", place, split) end
  local keys, sources = {}, {}
  local found = { sources = sources, failed = 0 }
  for i = 1, n do
    files.tick()
    local ok, row = pcall(made_row, split, view, from + i - 1)
    if ok then
      keys[i] = question_key(row)
      local source, answer = label(row), shown_answer(row.answer)
      local counts = sources[source]
      if not counts then
        counts = {}
        sources[source] = counts
      end
      counts[answer] = (counts[answer] or 0) + 1
    else
      keys[i] = NO_KEY
      found.failed = found.failed + 1
      found.first_failure = found.first_failure or tostring(row)
    end
  end
  return table.concat(keys), json.encode(found)
end

return M
