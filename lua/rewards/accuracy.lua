--- 1.0 when the final answer is the gold answer, 0.0 when it is not, nothing when the row has no gold answer.
--- TRL: accuracy_reward, which asks math_verify. Here the final answer is what \boxed{} holds, else the <answer>
--- block, else what follows "the answer is"; two that differ are no answer. Numbers are compared as numbers (42 = 42.0,
--- 1,200 = 1200, \frac{1}{2} = 0.5 = 50%), all else as text in a normal form. No algebra: x+1 and 1+x differ, and so do
--- \sqrt{4} and 2. What is understood is listed in lua/medrl/answer.lua.
--- Options: column, the row's column with the gold answer (TRL's `solution` is looked at when it is not there).
local answer = require "medrl.answer"

local M = { name = "accuracy", range = { 0.0, 1.0 }, options = { column = "answer" } }

function M.score(completion, row, info)
  local right = answer.correct(completion, row, info.options.column)
  if right == nil then return nil end
  return right and 1.0 or 0.0
end

local third, half, sum = { solution = "\\frac{1}{3}" }, { answer = "0.5" }, { answer = "1,200" }
M.cases = {
  { "My answer is \\boxed{\\frac{1}{3}}", third, 1.0 },
  { "My answer is \\boxed{\\frac{1}{2}}", third, 0.0 },
  { "So \\boxed{\\dfrac12}.", half, 1.0 },
  { "<reasoning>\nr\n</reasoning>\n<answer>\n50%\n</answer>\n", half, 1.0 },
  { "The answer is $1{,}200$.", sum, 1.0 },
  { "The answer is 1200 \\text{ pills}.", sum, 1.0 },
  { "The answer is 1201.", sum, 0.0 },
  { "\\boxed{3} or \\boxed{1200}", sum, 0.0 }, -- two answers are no answer
  { "\\boxed{1200}, that is \\boxed{1,200.0}", sum, 1.0 },
  { "1200", sum, 0.0 }, -- nothing says that this is the answer
  { "\\boxed{1 1/2}", { answer = "1.5" }, 1.0 },
  { "\\boxed{2.5 \\times 10^{3}}", { answer = "2500" }, 1.0 },
  { "\\boxed{4 2}", { answer = "42" }, 0.0 },
  { "\\boxed{x + 1}", { answer = "x+1" }, 1.0 },
  { "\\boxed{1 + x}", { answer = "x+1" }, 0.0 },
  { "Answer: Yes.", { answer = "yes" }, 1.0 },
  { "\\boxed{3}", {}, nil },
  { "\\boxed{3}", { gold = "3" }, 1.0, options = { column = "gold" } },
}

return M
