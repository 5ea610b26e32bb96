--- What a worker does with a chat template: loads it, runs its cases, renders messages into pieces. Called by the
--- program, not by scripts.
---
--- A template of your own is a Lua file that returns a table with
---   M.render(messages, options)  a list of pieces: text that is data, or chat.markup "<|im_start|>" (medrl.chat)
---   M.cases                      { { messages = {...}, options = {...}, text = "..." } }: run before the file is used
--- options holds add_generation_prompt, date, bos_token, eos_token and the recipe's model.chat_template_kwargs.
local chat = require "medrl.chat"
local host = require "medrl.host"
local json = require "medrl.json"

local M = {}

local function fail(message, ...)
  error(message:format(...), 0)
end

local most = 1048576

--- The pieces that a Lua template returned, checked: text, is markup, text, is markup ...
local function check(pieces, file)
  if type(pieces) ~= "table" then fail("%s: render returned a %s, want a list of pieces", file, type(pieces)) end
  local out, size = {}, 0
  for i, piece in ipairs(pieces) do
    local markup = chat.is_markup(piece)
    local text = markup and piece.markup or piece
    if type(text) == "number" then text = tostring(text) end
    if type(text) ~= "string" then
      fail("%s: render: piece %d is a %s, want a text or chat.markup(text)", file, i, type(piece))
    end
    out[2 * i - 1], out[2 * i] = text, markup
    size = size + #text
    if size > most then fail("%s: render returned more than %d bytes", file, most) end
  end
  local n = 0
  for _ in pairs(pieces) do n = n + 1 end
  if n ~= #pieces then fail("%s: render returned a table with other keys than 1 to n", file) end
  return out
end

local function text_of(pieces)
  local parts = {}
  for i = 1, #pieces, 2 do parts[#parts + 1] = pieces[i] end
  return table.concat(parts)
end

local function short(s)
  s = s:gsub("\n", "\\n")
  return #s > 200 and s:sub(1, 200) .. "..." or s
end

--- How many cases passed, and what is wrong with each that did not, as medrl.cases shows it.
function M.run_cases(module, file)
  local passed, failures = 0, {}
  for i, case in ipairs(module.cases or {}) do
    local f, options = { case = i }, case.options or { add_generation_prompt = true }
    if type(case.messages) ~= "table" or type(case.text) ~= "string" then
      f.why = "want { messages = { ... }, text = \"...\" }, and options when it takes any"
    else
      local ok, pieces = pcall(function() return check(module.render(case.messages, options), file) end)
      local got = ok and text_of(pieces)
      if not ok then
        f.why = tostring(pieces)
      elseif got ~= case.text then
        f.why = ("got \"%s\", want \"%s\""):format(short(got), short(case.text))
        f.got, f.want = got, case.text
      end
    end
    if not f.why then
      passed = passed + 1
    else
      f.messages, f.options = json.encode(case.messages), json.encode(options)
      failures[#failures + 1] = f
    end
  end
  return passed, failures
end

local module, place

--- Loads the main file. A template of a model is a table with the compiled function `jinja`.
function M.open()
  module = require "@main"
  place = host.place "@main"
  if type(module) ~= "table" or not (type(module.jinja) == "function" or type(module.render) == "function") then
    fail("%s: the file returned no table with a function render(messages, options)", place)
  end
  if module.jinja then return end
  local _, failures = M.run_cases(module, place)
  if failures[1] then fail("%s", require("medrl.cases").line(place, failures[1])) end
end

-- The JSON of the program's side was checked there; here it becomes the values of medrl.jinja, in its order, with all
-- text as data.

local escapes = { n = "\n", t = "\t", r = "\r", b = "\b", f = "\f", ["/"] = "/", ["\\"] = "\\", ['"'] = '"' }

local function reader(R, masked, source)
  local at = 1
  local function utf8(c)
    if c < 0x80 then return string.char(c) end
    if c < 0x800 then return string.char(0xC0 + math.floor(c / 64), 0x80 + c % 64) end
    if c < 0x10000 then
      return string.char(0xE0 + math.floor(c / 4096), 0x80 + math.floor(c / 64) % 64, 0x80 + c % 64)
    end
    return string.char(0xF0 + math.floor(c / 262144), 0x80 + math.floor(c / 4096) % 64, 0x80 + math.floor(c / 64) % 64,
      0x80 + c % 64)
  end
  local function text()
    local from, parts = at + 1, {}
    at = from
    while true do
      local stop = source:find('["\\]', at)
      parts[#parts + 1] = source:sub(at, stop - 1)
      if source:sub(stop, stop) == '"' then
        at = stop + 1
        return masked.data(table.concat(parts))
      end
      local c = source:sub(stop + 1, stop + 1)
      at = stop + 2
      if c ~= "u" then
        parts[#parts + 1] = escapes[c]
      else
        local code = tonumber(source:sub(at, at + 3), 16)
        at = at + 4
        if code >= 0xD800 and code < 0xDC00 then
          code = 0x10000 + (code - 0xD800) * 1024 + tonumber(source:sub(at + 2, at + 5), 16) - 0xDC00
          at = at + 6
        end
        parts[#parts + 1] = utf8(code)
      end
    end
  end
  local value
  local function skip() at = source:find("[^ \t\r\n]", at) or #source + 1 end
  local function list(close, item)
    at = at + 1
    skip()
    while source:sub(at, at) ~= close do
      item()
      skip()
      if source:sub(at, at) == "," then
        at = at + 1
        skip()
      end
    end
    at = at + 1
  end
  value = function()
    skip()
    local c = source:sub(at, at)
    if c == '"' then return text() end
    if c == "[" then
      local items, n = {}, 0
      list("]", function()
        n = n + 1
        items[n] = value()
      end)
      return R.list(items, n)
    elseif c == "{" then
      local d = R.empty_dict()
      list("}", function()
        local key = text()
        skip()
        at = at + 1
        R.set(d, key, value())
      end)
      return d
    end
    local word = source:match("^[%a]+", at)
    if word then
      at = at + #word
      if word == "null" then return R.none end
      return word == "true"
    end
    local number = source:match("^[-+%d%.eE]+", at)
    at = at + #number
    if number:find("[%.eE]") then return R.float(tonumber(number)) end
    return R.int(tonumber(number))
  end
  return value()
end

local function render_jinja(variables, constants, date)
  local R, masked = require "medrl.jinja", require "medrl.masked"
  R.begin()
  local names = {}
  for _, source in ipairs(variables) do
    local all = reader(R, masked, source)
    for i = 1, all.n do names[masked.bytes(all.keys[i])] = all.values[i] end
  end
  for key, text in pairs(json.decode(constants)) do
    if names[key] == nil then names[key] = text end
  end
  local o = R.buffer()
  module.jinja(R.root(names, R.globals(date)), o)
  local s, m = masked.bytes(R.take(o))
  if not m then return { s, true } end
  local out, from = {}, 1
  while from <= #s do
    local mark = m:sub(from, from)
    local to = (m:find(mark == "1" and "0" or "1", from, true) or #s + 1) - 1
    out[#out + 1] = s:sub(from, to)
    out[#out + 1] = mark == "1"
    from = to + 1
  end
  return out
end

--- variables: JSON objects with messages and what else the template may ask for, all of it data; later ones win.
--- constants: texts that are markup (bos_token). Gives text, is markup, text, is markup ...
function M.render(constants, date, ...)
  local variables = { ... }
  if module.jinja then return render_jinja(variables, constants, date) end
  local options = {}
  for _, source in ipairs(variables) do
    for key, value in pairs(json.decode(source, { null = false })) do options[key] = value end
  end
  local messages = options.messages
  options.messages = nil
  options.date = date
  for key, text in pairs(json.decode(constants)) do
    if options[key] == nil then options[key] = text end
  end
  return check(module.render(messages, options), place)
end

return M
