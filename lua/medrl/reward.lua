--- What a reward's file declares: its name, its options, and what a fault of it does. Its cases: medrl.cases. Called by
--- the program, not scripts.
local M = {}

local function fail(message, ...)
  error(message:format(...), 0)
end

--- The options that a reward runs with: its own, with those given in their place. A name that it does not declare, or
--- another type, is an error.
function M.options_of(module, given, where)
  local declared, options = module.options or {}, {}
  for key, value in pairs(declared) do options[key] = value end
  for key, value in pairs(given) do
    local of_entry = key == 1 or key == "name" or ((key == "weight" or key == "on_error") and declared[key] == nil)
    if not of_entry then
      if declared[key] == nil then fail("%s: unknown option \"%s\"", where, tostring(key)) end
      if type(value) ~= type(declared[key]) then
        fail("%s: option \"%s\" is a %s, want a %s", where, key, type(value), type(declared[key]))
      end
      options[key] = value
    end
  end
  return options
end

local policies = { min = 0, mask = 1, stop = 2 }

--- What a fault of the reward does, as the program knows it: the recipe's word, else the file's.
function M.on_error(module, entry, file, where)
  local declared = module.options or {}
  local own = type(entry) == "table" and declared.on_error == nil and entry.on_error or nil
  local word = own or module.on_error or "min"
  return policies[word] or fail("%s: on_error is %s, want \"min\", \"mask\" or \"stop\"", own and where or file,
    type(word) == "string" and ("\"%s\""):format(word) or "a " .. type(word))
end

--- Whether `module` is a reward; gives its name.
function M.check_reward(module, file)
  if type(module) ~= "table" then
    fail("%s: the file returned a %s, want a table with a function score", file, type(module))
  end
  local form = module.score_batch ~= nil and "score_batch" or "score"
  if module.score ~= nil and module.score_batch ~= nil then
    fail("%s: both score and score_batch are there, want one of them", file)
  end
  if module[form] == nil then
    fail("%s: score is missing, want a function score(completion, row, info), or score_batch(samples)", file)
  end
  if type(module[form]) ~= "function" then fail("%s: %s is a %s, want a function", file, form, type(module[form])) end
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
  M.on_error(module, nil, file)
  return name
end

return M
