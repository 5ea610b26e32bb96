--- How much of the two-block layout is there, tag by tag; every character behind the last tag costs 0.001.
---   0.5  all four tags with their newlines, nothing behind them
--- Source: W. Brown's GRPO demo, as the published medical recipe uses it. A long tail makes it negative.
local text = require "medrl.text"

local M = { name = "xmlcount" }

function M.score(completion)
  local sum = 0.0
  if text.count(completion, "<reasoning>\n") == 1 then sum = sum + 0.125 end
  if text.count(completion, "\n</reasoning>\n") == 1 then sum = sum + 0.125 end
  local tail = text.ulen(text.after_last(completion, "\n</answer>\n")) -- the whole text when the tag is missing
  if text.count(completion, "\n<answer>\n") == 1 then sum = sum + 0.125 - 0.001 * tail end
  if text.count(completion, "\n</answer>") == 1 then
    sum = sum + 0.125 - 0.001 * (text.ulen(text.after_last(completion, "\n</answer>")) - 1)
  end
  return sum
end

M.cases = {
  { "<reasoning>\nstep one\n</reasoning>\n<answer>\n42\n</answer>\n", {}, 0.5 },
  { "<reasoning>\nstep one\n</reasoning>\n<answer>\n42\n</answer>\n\n", {}, 0.498 },
  -- no newline at the end: the tail is the whole text
  { "<reasoning>\nstep one\n</reasoning>\n<answer>\n42\n</answer>", {}, 0.446 },
  { "<reasoning>step</reasoning><answer>42</answer>", {}, 0.0 },
  { "<reasoning>\nstep\n</reasoning>\n", {}, 0.25 },
  { "", {}, 0.0 },
}

return M
