--- As accuracy, of what stands behind the reasoning: 1.0 right, 0.0 wrong, 0.0 when the reasoning never ends, nothing
--- when the row has no gold answer.
--- TRL: reasoning_accuracy_reward. An answer inside the reasoning does not count.
--- Options: delimiter, the text that ends the reasoning; column, the row's column with the gold answer.
local answer = require "medrl.answer"
local text = require "medrl.text"

local M = { name = "reasoning_accuracy", range = { 0.0, 1.0 },
            options = { delimiter = "</think>", column = "answer" } }

function M.score(completion, row, info)
  local options = info.options
  if not text.contains(completion, options.delimiter) then return 0.0 end
  local right = answer.correct(text.after_last(completion, options.delimiter), row, options.column)
  if right == nil then return nil end
  return right and 1.0 or 0.0
end

local third = { solution = "\\frac{1}{3}" }
M.cases = {
  { "<think> Reasoning content </think> The final answer is \\boxed{\\frac{1}{3}}", third, 1.0 },
  { "<think> Reasoning content </think> The final answer is \\boxed{\\frac{1}{2}}", third, 0.0 },
  { "<think> Partial answers \\boxed{\\frac{1}{3}} but no final answer", third, 0.0 },
  { "<think> \\boxed{\\frac{1}{3}} </think> so, well", third, 0.0 },
  { "<think> r </think> \\boxed{3}", {}, nil },
  { "no end", {}, 0.0 }, -- as in TRL, this is asked first
  { "<reasoning>r</reasoning><answer>7</answer>", { answer = "7" }, 1.0, options = { delimiter = "</reasoning>" } },
}

return M
