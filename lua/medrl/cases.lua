--- The cases that a Lua file carries: what they are run with, what came, and how a difference reads. A reload runs them
--- before a reward is accepted; `medrl test` runs them and shows all that failed. Called by the program, not scripts.
local json = require "medrl.json"
local reward = require "medrl.reward"
local text = require "medrl.text"

local M = {}

-- How things read.

--- On one line, and not too long.
function M.short(s)
  s = tostring(s):gsub("\n", "\\n")
  return #s > 60 and s:sub(1, 60) .. "..." or s
end
local short = M.short

-- A text with its white space made visible, for a line of its own.
local function visible(s)
  local shown = tostring(s):gsub("\n", "⏎"):gsub("\r", "␍"):gsub("\t", "⇥"):gsub("%c", "·")
  return #shown > 400 and shown:sub(1, 400) .. (" … (%d bytes)"):format(#s) or shown
end

local function shown(value)
  if value == nil then return "nil" end
  if type(value) ~= "table" then return tostring(value) end
  local ok, as_json = pcall(json.encode, value)
  return ok and short(as_json) or "a table"
end

--- A failure on one line: FILE: case 2 ("abc"): got 1, want 2.
function M.line(file, f)
  local what = f.of and (" (\"%s\")"):format(short(f.of)) or ""
  return ("%s: case %d%s: %s"):format(file, f.case, what, f.why)
end

--- The same with what it ran on and both values below each other.
function M.block(file, f)
  local lines = { M.line(file, f) }
  local function add(label, value)
    if value ~= nil then lines[#lines + 1] = ("    %-11s %s"):format(label, value) end
  end
  for _, completion in ipairs(f.completions or {}) do add("completion", visible(completion)) end
  add("row", f.row)
  add("messages", f.messages)
  add("options", f.options)
  add("field", f.field)
  if f.got or f.want then
    add("- want", visible(f.want))
    add("+ got", visible(f.got))
  end
  return table.concat(lines, "\n")
end

-- Rewards.

local function same_score(got, want)
  if got == nil or want == nil then return got == want end
  return type(got) == "number" and type(want) == "number" and got == got and math.abs(got - want) <= 1e-9
end

local function outside(module, value)
  return type(value) == "number" and module.range and (value < module.range[1] or value > module.range[2])
end

local function info_of(module, case, completion, own, file)
  local info = { n_tokens = text.ulen(completion), truncated = false, prompt = "", step = 0 }
  for key, value in pairs(case.info or {}) do info[key] = value end
  for key, value in pairs(own or {}) do info[key] = value end
  info.options = reward.options_of(module, case.options or {}, file)
  return info
end

-- The line that names the first difference of two lists.
local function list_difference(module, got, want)
  if type(got) ~= "table" then return ("got a %s, want a list of %d numbers"):format(type(got), #want) end
  if #got ~= #want then return ("got %d values, want %d"):format(#got, #want) end
  for i = 1, #want do
    if outside(module, got[i]) then
      return ("value %d: %g lies outside the range %g to %g"):format(i, got[i], module.range[1], module.range[2])
    end
    if not same_score(got[i] or nil, want[i] or nil) then
      return ("value %d: got %s, want %s"):format(i, tostring(got[i]), tostring(want[i]))
    end
  end
  return nil
end

local function batch_case(module, case, file)
  local list, row = case.completions or case[1], case.row or case[2] or {}
  local want = case.scores or case[3]
  if type(list) ~= "table" or type(want) ~= "table" then
    return { why = "has no list of completions, or no list of scores" }
  end
  local samples, texts = {}, {}
  for i, item in ipairs(list) do
    local completion = type(item) == "table" and item.completion or item
    if type(completion) ~= "string" then return { why = ("completion %d is a %s"):format(i, type(completion)) } end
    texts[i] = completion
    samples[i] = { completion = completion, row = row,
                   info = info_of(module, case, completion, type(item) == "table" and item.info, file) }
  end
  local ok, got = pcall(module.score_batch, samples)
  local why = ok and list_difference(module, got, want) or nil
  if not ok then why = tostring(got) end
  if not why then return nil end
  return { why = why, of = texts[1], completions = texts, row = shown(row), got = ok and shown(got) or nil,
           want = shown(want) }
end

local function single_case(module, case, file)
  local completion, row, want = case.completion or case[1], case.row or case[2] or {}, case.score
  if want == nil then want = case[3] end
  if type(completion) ~= "string" then return { why = "has no completion" } end
  local ok, got = pcall(module.score, completion, row, info_of(module, case, completion, nil, file))
  local f = { of = completion, completions = { completion }, row = shown(row),
              options = case.options and shown(case.options) }
  if not ok then
    f.why = tostring(got)
  elseif not same_score(got, want) then
    f.got, f.want = shown(got), shown(want)
    f.why = ("got %s, want %s"):format(f.got, f.want)
  elseif outside(module, got) then
    f.why = ("%g lies outside the range %g to %g"):format(got, module.range[1], module.range[2])
  else
    return nil
  end
  return f
end

--- Runs M.cases of a reward; gives how many passed and a list of failures.
function M.reward(module, file)
  local passed, failures = 0, {}
  local run = module.score_batch and batch_case or single_case
  for i, case in ipairs(module.cases or {}) do
    local f = run(module, case, file)
    if f then
      f.case = i
      failures[#failures + 1] = f
    else
      passed = passed + 1
    end
  end
  return passed, failures
end

-- Data sets.

-- Where `got` lacks what `want` names: the path, and both values. nil: nowhere.
local function difference(got, want, path)
  if type(want) ~= "table" then
    if got ~= want then return path, got, want end
    return nil
  end
  if type(got) ~= "table" then return path, got, want end
  local keys = {}
  for key in pairs(want) do keys[#keys + 1] = key end
  table.sort(keys, function(a, b) return tostring(a) < tostring(b) end) -- the first difference is always the same
  for _, key in ipairs(keys) do
    local at, have, need = difference(got[key], want[key], path == "" and tostring(key) or path .. "." .. tostring(key))
    if at then return at, have, need end
  end
  return nil
end

--- Runs M.cases of a data set: { raw, row }, where row has what is to be there, nil for a row that is left out.
function M.dataset(module)
  local passed, failures = 0, {}
  for i, case in ipairs(module.cases or {}) do
    local raw, want, options = case.raw or case[1], case.row or case[2], case.options or {}
    local ok, got, reason = pcall(function()
      if module.keep then
        local keep, why = module.keep(raw, options)
        if not keep then return nil, why end
      end
      return module.row(raw, options)
    end)
    local f = { case = i, row = shown(raw), options = case.options and shown(case.options) }
    if not ok then
      f.why = tostring(got)
    elseif want == nil then
      f.why = got ~= nil and "got a row, want it left out" or nil
    elseif got == nil then
      f.why = "the row was left out" .. (type(reason) == "string" and (" (%s)"):format(short(reason)) or "")
    else
      local at, have, need = difference(got, want, "")
      if at then
        f.field, f.got, f.want = at, shown(have), shown(need)
        if type(have) == "string" then f.got = have end -- texts in full: the difference may be far in
        if type(need) == "string" then f.want = need end
        f.why = ("%s is %s, want %s"):format(at, short(f.got), type(need) == "table" and "a table" or short(f.want))
      end
    end
    if f.why then failures[#failures + 1] = f else passed = passed + 1 end
  end
  return passed, failures
end

return M
