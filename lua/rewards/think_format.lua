--- 1.0 when the text begins with <think>, has no second <think>, and closes it; 0.0 otherwise. Says nothing about what
--- is inside or behind.
--- TRL: think_format_reward, the pattern ^<think>(?!.*<think>)(.*?)</think>.*$ over the whole text.
local text = require "medrl.text"

local M = { name = "think_format", range = { 0.0, 1.0 } }

function M.score(completion)
  if completion:sub(1, 7) ~= "<think>" or text.count(completion, "<think>") ~= 1 then return 0.0 end
  return text.contains(completion, "</think>") and 1.0 or 0.0
end

M.cases = {
  { "<think>\nThis is my reasoning.\n</think>\nThis is my answer.", {}, 1.0 },
  { "<think>\nThis is my reasoning.\nThis is my answer.", {}, 0.0 },
  { "<think></think>", {}, 1.0 },
  { "Well, <think>\nr\n</think>\na", {}, 0.0 },
  { "<think>\nr\n</think>\n<think>\nmore\n</think>", {}, 0.0 },
  { "</think><think>", {}, 0.0 },
}

return M
