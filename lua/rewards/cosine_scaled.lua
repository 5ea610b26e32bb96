--- Correctness scaled by length along a half cosine: a right answer earns more the shorter it is, a wrong one is
--- punished less the longer it is (so that exploring stays cheap). Nothing when the row has no gold answer.
---   right  max_value_correct at length 0, down to min_value_correct at max_len and beyond
---   wrong  min_value_wrong at length 0, up to max_value_wrong at max_len and beyond
--- TRL: get_cosine_scaled_reward, with its names and defaults; length is in tokens, right is what rewards/accuracy.lua
--- takes for right. Source: arXiv:2502.03373, appendix C.1. Set max_len to the recipe's max_completion_length.
local answer = require "medrl.answer"

local M = {
  name = "cosine_scaled", range = { -1.0, 1.0 },
  options = { max_len = 512, min_value_wrong = -1.0, max_value_wrong = -0.5, min_value_correct = 0.5,
              max_value_correct = 1.0, column = "answer" },
}

function M.score(completion, row, info)
  local o = info.options
  local right = answer.correct(completion, row, o.column)
  if right == nil then return nil end
  local low, high = o.max_value_wrong, o.min_value_wrong -- swapped: the short one is punished more
  if right then low, high = o.min_value_correct, o.max_value_correct end
  local progress = math.min(info.n_tokens / o.max_len, 1.0)
  return low + 0.5 * (high - low) * (1.0 + math.cos(progress * math.pi))
end

local third, hundred = { solution = "\\frac{1}{3}" }, { max_len = 100 }
local right, wrong = "\\boxed{\\frac{1}{3}}", "\\boxed{\\frac{1}{2}}"
M.cases = {
  { right, third, 0.75, info = { n_tokens = 50 }, options = hundred },
  { wrong, third, -0.75, info = { n_tokens = 50 }, options = hundred },
  { right, third, 1.0, info = { n_tokens = 0 }, options = hundred },
  { wrong, third, -1.0, info = { n_tokens = 0 }, options = hundred },
  { right, third, 0.5, info = { n_tokens = 900 }, options = hundred }, -- beyond max_len the cosine does not rise again
  { wrong, third, -0.5, info = { n_tokens = 100 }, options = hundred },
  { right, {}, nil },
}

M.fuzz = { allow = {
  ["*"] = { reason = "by its definition a long wrong answer is punished less than a short one", up_to = -0.5 },
} }

return M
