--- The session of `medrl repl` and `medrl attach`: its objects over one host, how values are printed, the help, what
--- Tab offers. Called by the program with the host's functions.
local json, text, re = require "medrl.json", require "medrl.text", require "medrl.re"

local M = {}
local host, env, call, quote -- what M.open was given

local function fail(message, ...)
  error(message:format(...), 0)
end

-- Printing.

local ITEMS, DEPTH, LONG, NESTED = 40, 4, 4000, 200

local function number(x)
  if x ~= x then return "nan" end
  if x == math.huge then return "inf" elseif x == -math.huge then return "-inf" end
  if x == math.floor(x) and math.abs(x) < 2 ^ 53 then return ("%.0f"):format(x) end
  for digits = 14, 17 do
    local s = ("%." .. digits .. "g"):format(x)
    if tonumber(s) == x then return s end
  end
end

local keywords = {}
for word in ([[and break do else elseif end false for function goto if in local nil not or repeat return then true until
               while]]):gmatch("%a+") do
  keywords[word] = true
end

local function is_name(s)
  return type(s) == "string" and s:match("^[%a_][%w_]*$") and not keywords[s]
end

-- The text that an object has for itself, nil when it has none. What goes wrong in it is shown in its place.
local function own_text(value)
  local meta = type(value) == "table" and getmetatable(value)
  if type(meta) ~= "table" or rawget(meta, "__tostring") == nil then return nil end
  local ok, s = pcall(tostring, value)
  return ok and s or "<" .. tostring(s) .. ">"
end

local function scalar(value, long)
  local kind = type(value)
  if kind == "string" then return quote(value, long) end
  if kind == "number" then return number(value) end
  if value == json.null then return "null" end
  if kind == "table" then return nil end
  return tostring(value)
end

local order = { number = 1, string = 2, boolean = 3 }

-- The keys that come after 1..n, numbers first, then names; and n.
local function keys_of(t)
  local n, keys = #t, {}
  for key in next, t do
    if not (type(key) == "number" and key >= 1 and key <= n and key == math.floor(key)) then keys[#keys + 1] = key end
  end
  table.sort(keys, function(a, b)
    local x, y = order[type(a)] or 4, order[type(b)] or 4
    if x ~= y then return x < y end
    if x <= 2 then return a < b end
    return tostring(a) < tostring(b)
  end)
  return n, keys
end

local function key_text(key)
  if is_name(key) then return key end
  if type(key) == "table" then return "[<table>]" end
  return "[" .. scalar(key, 60) .. "]"
end

-- On one line, nil when that takes more than `room` characters or a table has more than ITEMS entries.
local function inline(value, depth, seen, room)
  local s = own_text(value) or scalar(value, NESTED)
  if s then return #s <= room and not s:find("\n", 1, true) and s or nil end
  if seen[value] then return "<cycle>" end
  if next(value) == nil then return "{}" end
  if depth <= 0 then return "{...}" end
  local n, keys = keys_of(value)
  if n + #keys > ITEMS then return nil end
  local parts, used = {}, 4
  seen[value] = true
  for i = 1, n + #keys do
    local key = i > n and keys[i - n] or nil
    local item = rawget(value, i <= n and i or key)
    local part = inline(item, depth - 1, seen, room - used)
    if part and key ~= nil then part = key_text(key) .. " = " .. part end
    used = part and used + #part + (i > 1 and 2 or 0)
    if not used or used > room then
      seen[value] = nil
      return nil
    end
    parts[i] = part
  end
  seen[value] = nil
  return "{ " .. table.concat(parts, ", ") .. " }"
end

local block

local function shown(value, depth, seen, indent, used)
  return inline(value, depth, seen, host.columns() - indent - used) or block(value, depth, seen, indent)
end

function block(value, depth, seen, indent)
  local s = own_text(value) or scalar(value, NESTED)
  if s then return s end
  local n, keys = keys_of(value)
  local pad, lines, count = (" "):rep(indent + 2), {}, 0
  seen[value] = true
  local row = pad -- scalars of a list fill lines
  for i = 1, n do
    if count == ITEMS then break end
    count = count + 1
    local item = rawget(value, i)
    local part = shown(item, depth - 1, seen, indent + 2, 1) .. ","
    if type(item) == "table" or part:find("\n", 1, true) then
      if row ~= pad then lines[#lines + 1] = row end
      row = pad
      lines[#lines + 1] = pad .. part
    else
      if row ~= pad and #row + 1 + #part > host.columns() then
        lines[#lines + 1] = row
        row = pad
      end
      row = row .. (row == pad and "" or " ") .. part
    end
  end
  if row ~= pad then lines[#lines + 1] = row end
  for _, key in ipairs(keys) do
    if count == ITEMS then break end
    count = count + 1
    local name = key_text(key) .. " = "
    lines[#lines + 1] = pad .. name .. shown(rawget(value, key), depth - 1, seen, indent + 2, #name + 1) .. ","
  end
  if n + #keys > count then lines[#lines + 1] = pad .. ("... %d more"):format(n + #keys - count) end
  seen[value] = nil
  return "{\n" .. table.concat(lines, "\n") .. "\n" .. (" "):rep(indent) .. "}"
end

--- A value as the session prints it: tables to a depth, within the width of the terminal.
function M.show(value, depth)
  if type(value) == "string" then return quote(value, LONG) end
  return own_text(value) or shown(value, depth or DEPTH, {}, 0, 0)
end

--- The values of an expression: kept in `_` (the former one in `__`) and printed, one a line.
function M.results(n, ...)
  if n == 0 then return end
  env.__, env._ = env._, (...)
  if host.silent then return end
  for i = 1, n do host.write(M.show((select(i, ...))) .. "\n") end
end

local function print_values(...)
  local parts = {}
  for i = 1, select("#", ...) do parts[i] = tostring((select(i, ...))) end
  host.write(table.concat(parts, "\t") .. "\n")
end

--- An error's message, and the lines of its traceback that are about the session's own code.
function M.failure(said)
  local message, trace = said:match("^(.-)\nstack traceback:\n(.*)$")
  if not message then return said, "" end
  local lines = {}
  for line in trace:gmatch("[^\n]+") do
    if not line:find("lua/medrl/repl.lua:", 1, true) and not line:find("^%s*%[[Cb]") then lines[#lines + 1] = line end
  end
  if #lines == 1 and lines[1]:find("in main chunk", 1, true) then lines = {} end
  return message, table.concat(lines, "\n")
end

--- ":sample a text" as Lua.
function M.command(line)
  local word, rest = line:match("^:%s*([%a_]*)%s*(.-)%s*$")
  if word == "q" or word == "exit" then word = "quit" end
  if word == "" then return "help()" end
  if word == "set" and rest ~= "" then
    local key, value = rest:match("^([%w_%.]+)[%s=]+(.+)$")
    if key then return ("set{ [%s] = %s }"):format(quote(key), value) end
  end
  return rest == "" and word .. "()" or ("%s(%s)"):format(word, tonumber(rest) and rest or quote(rest))
end

-- What takes a prompt.

local options = { "n", "temperature", "top_p", "top_k", "min_p", "repetition_penalty", "max_new_tokens", "seed", "row",
                  "system" }
local is_option = {}
for _, name in ipairs(options) do is_option[name] = true end

-- A row of `data`, or the columns themselves.
local function columns_of(row)
  if type(row) == "table" and type(row.row) == "table" then return row.row end
  if row ~= nil and type(row) ~= "table" then
    fail("the row is a %s, want a table such as { answer = \"B\" }", type(row))
  end
  return row
end

local function sample(prompt, given)
  local args = {}
  for key, value in pairs(given or {}) do
    if not is_option[key] then
      fail("unknown option \"%s\", want one of %s", tostring(key), table.concat(options, ", "))
    end
    args[key] = value
  end
  args.row = columns_of(args.row)
  if type(prompt) == "table" and prompt.messages then
    args.messages = prompt.messages
    if args.row == nil then args.row = prompt.row end
  elseif type(prompt) == "table" then
    args.messages = prompt
  elseif type(prompt) == "string" then
    args.prompt = prompt
  else
    fail("the prompt is a %s, want a text, a row of data, or a list of { role =, content = }", type(prompt))
  end
  if args.row and next(args.row) == nil then args.row = nil end
  local list = call("sample", args).completions
  if args.row then return list end
  local texts = {}
  for i, one in ipairs(list) do texts[i] = one.text end
  return texts
end

local function one_score(what, row)
  local said = type(what) == "table" and what.text or what
  if type(said) ~= "string" then fail("score: the text is a %s, want a text or what generate returned", type(said)) end
  return call("score", { text = said, row = columns_of(row) })
end

local function score(what, row)
  if type(what) ~= "table" or what.text then return one_score(what, row) end
  local list = {}
  for i, each in ipairs(what) do list[i] = one_score(each, row) end
  return list
end

-- Objects.

-- An object whose fields that are no methods come from `get`, with its line for itself.
local function object(methods, line, names, get)
  local names_of = {}
  for name in pairs(methods) do names_of[#names_of + 1] = name end
  for _, name in ipairs(names or {}) do names_of[#names_of + 1] = name end
  return setmetatable({}, {
    __index = function(_, key)
      if methods[key] ~= nil then return methods[key] end
      if get then return get(key) end
      fail("there is no field \"%s\", there are %s", tostring(key), table.concat(names_of, ", "))
    end,
    __newindex = function(_, key) fail("\"%s\" cannot be set here; settings: set{ ... }", tostring(key)) end,
    __tostring = function() return line end,
    __names = names_of,
    __methods = methods,
  })
end

local set, settings = function(values)
  if type(values) ~= "table" then fail("set: want names and values, as in set{ learning_rate = 2e-6 }") end
  return call("set", values)
end, function() return call("settings") end

local function last(i)
  local groups = call("last")
  if not groups then return nil end
  return i and groups[i] or groups
end

local function metrics(n)
  local list = call("metrics", { n = n or 1 })
  if n then return list end
  return list[#list]
end

local function reload()
  host.forget()
  return call("reload").note
end

local fields = { "run", "step", "max_steps", "paused", "phase", "done", "total", "method", "model", "rows",
                 "reward", "epoch", "version", "clients", "pid" }
local is_field = {}
for _, name in ipairs(fields) do is_field[name] = true end

local Run = {
  metrics = function(_, n) return metrics(n) end,
  last = function(_, i) return last(i) end,
  status = function() return call("status") end,
  settings = settings,
  scripts = function() return call("scripts") end,
  rewards = function() return call("rewards") end,
  set = function(_, values) return set(values) end,
  sample = function(_, prompt, given) return sample(prompt, given) end,
  score = function(_, what, row) return score(what, row) end,
  checkpoint = function() return call("checkpoint").path end,
  reload = reload,
}

-- What can be done to a run that another process makes.
local Attached = {
  pause = function(_, why) return call("pause", { why = why }).paused end,
  resume = function() return call("resume").step end,
  stop = function() return call("stop").step end,
}

local function run_object()
  local methods = {}
  for name, f in pairs(Run) do methods[name] = f end
  for name, f in pairs(host.attached and Attached or {}) do methods[name] = f end
  return object(methods, "run: run.step, run:metrics(), run:last(), run:set{ ... }; help \"run\"", fields, function(key)
    if not is_field[key] then
      fail("run has no field \"%s\"; it has %s; methods: help \"run\"", tostring(key), table.concat(fields, ", "))
    end
    return call("status")[key]
  end)
end

local function split_of(name)
  local methods = {
    len = function() return call("rows", { split = name }).rows end,
    sample = function(self) return self[math.random(self:len())] end,
  }
  return object(methods, ("data of the recipe (%s): data[1], data:sample(), data:len()"):format(name), nil,
    function(key)
      if key == "eval" and name == "train" then return env.data_eval end
      if type(key) ~= "number" then
        fail("data has no field \"%s\"; there are data[1], data:sample(), data:len()", tostring(key))
      end
      local row = call("row", { split = name, index = key - 1 })
      row.index = key
      return row
    end)
end
-- Help: a line for each object, an example in each.

local topics = {
  { "model", [[model:generate("Is aspirin an antibiotic?")   one completion, in a list
model:generate("...", { n = 6, temperature = 0.9 })   more options: top_p,
          top_k, min_p, repetition_penalty, max_new_tokens, seed, system
model:generate(data[3], { n = 4 })   a row's prompt: with its rewards by name
model:generate("...", { row = { answer = "no" } })   the same, columns typed in]] },
  { "score", [[score("<answer>no</answer>", { answer = "no" })   all rewards by name
score(_, data[3])         of what generate has returned]] },
  { "data", [[data[17]        row 17: prompt, messages, row (its columns), source
data:sample()   any row
data:len()      how many there are
data_eval[1]    a row of the evaluation split]] },
  { "run", [[run.step, run.max_steps, run.paused, run.phase, run.model, run.reward ...
run:status()              all of them
run:metrics()             of the last step; run:metrics(5) of five
run:last()                the last step's groups; run:last(1) the first of them
run:sample("...")         as model:generate, between two steps
run:score("...", row)     as score
run:set{ learning_rate = 2e-6 }   from the next step on; run:settings() has all
run:rewards()             names and weights
run:scripts()             names and hashes of the Lua files in use
run:checkpoint()          a checkpoint now
run:reload()              looks at the scripts now]] },
  { "set", [[set{ learning_rate = 2e-6 }   settings of the run, from the next step on]] },
  { "settings", [[settings()      what can be set, and what it is]] },
  { "reload", [[reload()        changed Lua files: rewards, data, the recipe, what was required]] },
  { "text", [[text.strip(s), text.last_between(s, a, b) ...   as require "medrl.text"]] },
  { "re", [[re.compile("^\\s*yes", "i"):test(s)     as require "medrl.re"]] },
  { "json", [[json.encode(t), json.decode(s)]] },
  { "_", [[_ is the last value, __ the one before; print(_) shows a text as it is]] },
  { "quit", [[quit() or Ctrl-D ends the session, Ctrl-C stops what runs
:name rest      is short for name("rest")]] },
}
-- Of `medrl repl` only; what is said of "run" comes behind the rest.
local own_topics = {
  { "run", [[(a run begins with the first step())]] },
  { "step", [[step()          trains a step as `medrl run` does, in a run folder; step(5) five]] },
  { "reset", [[reset()         adapter and optimizer as at the start; then a new run begins]] },
  { "save", [[save("DIR")     the adapter as a PEFT folder]] },
  { "chat", [[chat()          a conversation with the present weights; Ctrl-D comes back]] },
}
local attached_topics = {
  { "run", [[run:pause("why")          holds the run at the end of the step
run:resume()              and lets it go on
run:stop()                ends it, with a checkpoint]] },
}

local function help_text(name)
  local lines, names = {}, {}
  for _, topic in ipairs(M.topics) do
    if names[#names] ~= topic[1] then names[#names + 1] = topic[1] end
    if name == nil or name == topic[1] then lines[#lines + 1] = topic[2] end
  end
  if name ~= nil and not lines[1] then
    fail("there is no help on \"%s\"; there is on %s", tostring(name), table.concat(names, ", "))
  end
  return table.concat(lines, "\n")
end

local help = setmetatable({}, {
  __tostring = function() return help_text() end,
  __call = function(_, name)
    if type(name) == "table" then -- help(run)
      for _, topic in ipairs(topics) do if rawequal(env[topic[1]], name) then name = topic[1] end end
    end
    host.write(help_text(name) .. "\n")
  end,
})

-- What Tab offers.

-- add(name, value, whether it is of an object: methods behind a colon, the rest behind a dot).
local function names_in(value, add)
  local meta = getmetatable(value)
  if type(value) == "table" then
    for key in next, value do add(key, rawget(value, key)) end
  end
  if type(meta) ~= "table" then
    if type(value) == "string" then for key, f in pairs(env.string or {}) do add(key, f) end end
    return
  end
  local names, methods = rawget(meta, "__names"), rawget(meta, "__methods")
  for _, key in ipairs(type(names) == "table" and names or {}) do add(key, methods[key], true) end
  local up = rawget(meta, "__index")
  if type(up) == "table" and up ~= value then for key, f in next, up do add(key, f) end end
end

local function field_of(value, key)
  if type(value) == "string" then return (env.string or {})[key] end
  if type(value) ~= "table" then return nil end
  local found, meta = rawget(value, key), getmetatable(value)
  if found ~= nil or type(meta) ~= "table" then return found end
  local methods, up = rawget(meta, "__methods"), rawget(meta, "__index")
  if type(methods) == "table" then return methods[key] end
  return type(up) == "table" and rawget(up, key) or nil
end

local function settings_names()
  local ok, list = pcall(call, "keys")
  return ok and list or {}
end

local function starts(s, head)
  return s:sub(1, #head) == head
end

--- What the last word of the line may become: whole words, sorted.
function M.complete(line)
  local found, taken = {}, {}
  local function offer(word)
    if not taken[word] then found[#found + 1] = word end
    taken[word] = true
  end
  local command = line:match("^:([%a_]*)$")
  local word = line:match("[%a_][%w_%.:]*$") or ""
  local is_value = line:find("=%s*[%w_%.]*$")
  if command then
    for _, topic in ipairs(M.topics) do
      local name = topic[1]
      if type(env[name]) == "function" and starts(name, command) then offer(":" .. name) end
    end
    if starts("help", command) then offer(":help") end
  elseif line:find("set%s*%(?%s*{[^}]*$") and not is_value then
    for _, name in ipairs(settings_names()) do
      if starts(name, word) then offer(name .. " = ") end
    end
  elseif (line:find("generate%s*%(.*{[^}]*$") or line:find("sample%s*%(.*{[^}]*$")) and not is_value then
    for _, name in ipairs(options) do
      if starts(name, word) then offer(name .. " = ") end
    end
  else
    local path, head = word:match("^(.*[%.:])([%w_]*)$")
    local value = env
    if path then
      for name in path:gmatch("[%w_]+") do value = field_of(value, name) end
    else
      path, head = "", word
    end
    if value ~= nil then
      local colon = path:sub(-1) == ":"
      names_in(value, function(key, inner, of_object)
        local callable = type(inner) == "function"
        if is_name(key) and starts(key, head) and (callable or not colon) and not (of_object and callable ~= colon) then
          offer(path .. key .. (callable and "(" or ""))
        end
      end)
    end
    if path == "" and #head > 0 then
      for name in pairs(keywords) do if starts(name, head) then offer(name) end end
    end
  end
  table.sort(found)
  return found
end

--- Makes the session's globals in `globals`, over the host's functions.
function M.open(functions, globals)
  host, env, call, quote = functions, globals, functions.call, functions.quote
  M.topics = {}
  local more = host.attached and attached_topics or own_topics
  for _, topic in ipairs(topics) do
    M.topics[#M.topics + 1] = topic
    if more[1][1] == topic[1] then M.topics[#M.topics + 1] = more[1] end
  end
  for i = 2, #more do M.topics[#M.topics + 1] = more[i] end
  env.print, env.help = print_values, help
  env.run, env.data, env.data_eval = run_object(), split_of("train"), split_of("eval")
  env.model = object({ generate = function(_, prompt, given) return sample(prompt, given) end },
    "model: model:generate(\"a prompt\", { n = 6, temperature = 0.9 })")
  env.score, env.set, env.settings, env.reload = score, set, settings, reload
  env.text, env.json, env.re = text, json, re
  env.quit = function() host.quit() end
  env.exit = env.quit
  if host.attached then return end
  env.step = function(n) call("step", { n = n or 1 }) end
  env.reset = function() call("reset") end
  env.save = function(dir) return call("save", { dir = dir }).path end
  env.chat = function() call("chat") end
end

return M
