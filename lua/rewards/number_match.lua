--- 1.0 when the last number of the answer is the gold number, 0.0 when not, nothing when the gold answer is no number.
--- The answer is the <answer> block when the text has such a tag (two blocks are no answer), what \boxed{} holds when
--- it has one, otherwise the whole text.
--- "42", "42.0", "$42", "42 apples" and "so it is 42." say the same; "1,200" is 1200. Of a fraction or a power only the
--- last number is seen: for those, rewards/accuracy.lua.
--- Options: column, the row's column with the gold answer ("#### 42" as GSM8K writes it is fine).
local answer = require "medrl.answer"
local text = require "medrl.text"

local M = { name = "number_match", range = { 0.0, 1.0 }, options = { column = "answer" } }

function M.score(completion, row, info)
  local gold = answer.gold(row, info.options.column)
  gold = gold and answer.number(gold)
  if not gold then return nil end
  local said = completion
  if text.contains(completion, "<answer>") or text.contains(completion, "</answer>") then
    said = answer.tagged(completion)
  elseif text.contains(completion, "\\boxed{") then
    said = answer.final(completion)
  end
  local number = said and answer.last_number(said)
  return number and answer.near(number, gold) and 1.0 or 0.0
end

local sum = { answer = "1,200" }
M.cases = {
  { "<reasoning>\n30 times 40\n</reasoning>\n<answer>\n1200\n</answer>\n", sum, 1.0 },
  { "<answer>1,200 pills</answer>", sum, 1.0 },
  { "<answer>$1200.00.</answer>", sum, 1.0 },
  { "30 times 40 is 1200.", sum, 1.0 },
  { "1200 is 30 times 40", sum, 0.0 },
  { "<answer>1200</answer><answer>7</answer>", sum, 0.0 },
  { "\\boxed{1200} after 3 steps", sum, 1.0 },
  { "\\boxed{3} or \\boxed{1200}", sum, 0.0 },
  { "<answer>-1200</answer>", sum, 0.0 },
  { "<answer>1200", sum, 0.0 },
  { "-5", { answer = "x #### -5" }, 1.0 },
  { "7", { answer = "yes" }, nil },
}

return M
