--- What earns how much, in one line a value. `medrl test` runs the cases below, and so does every reload.
---   1.0  the <answer> block is there and short
---   0.0  it is not
local text = require "medrl.text" -- strip, lower, count, contains, last_between, ... : docs/rewards.md

local M = {
  name = "new_reward",          -- the file's name
  range = { 0.0, 1.0 },         -- lowest and highest value; another one is a fault and counts as the lowest
  options = { longest = 40 },   -- what a recipe may set: { "new_reward", longest = 80 }
}

--- completion: what the model wrote. row: the data row with all its columns (row.answer is the gold answer).
--- info: n_tokens, truncated, prompt, step, options. Return a number, or nil where this reward has no opinion.
function M.score(completion, _, info) -- score(completion, row, info)
  local said = text.last_between(completion, "<answer>", "</answer>")
  if not said or said == "" then return 0.0 end
  return text.ulen(said) <= info.options.longest and 1.0 or 0.0
end

-- { completion, row, score }, with options = {} or info = {} where they matter.
M.cases = {
  { "<reasoning>r</reasoning><answer>yes</answer>", { answer = "yes" }, 1.0 },
  { "<answer>" .. ("y"):rep(41) .. "</answer>", {}, 0.0 },
  { "<answer>" .. ("y"):rep(41) .. "</answer>", {}, 1.0, options = { longest = 41 } },
  { "<answer></answer>", {}, 0.0 },
  { "yes", {}, 0.0 },
}

return M
