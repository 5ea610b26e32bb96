--- 0.5 when the text is exactly the two blocks, each tag on its own line, one newline at the end (one more is
--- forgiven).
--- As published, "." stops at a newline: reasoning of several lines scores 0. Option dotall lifts that.
local re = require "medrl.re"

local M = { name = "strict_format", range = { 0.0, 0.5 }, options = { dotall = false } }

local pattern = "^<reasoning>\\n.*?\\n</reasoning>\\n<answer>\\n.*?\\n</answer>\\n$"
local one_line, many_lines = re.compile(pattern), re.compile(pattern, "s")

function M.score(completion, _, info)
  local shape = info.options.dotall and many_lines or one_line
  return shape:match(completion) and 0.5 or 0.0
end

local two_lines = "<reasoning>\none\ntwo\n</reasoning>\n<answer>\n42\n</answer>\n"
M.cases = {
  { "<reasoning>\nstep one\n</reasoning>\n<answer>\n42\n</answer>\n", {}, 0.5 },
  { "<reasoning>\nstep one\n</reasoning>\n<answer>\n42\n</answer>\n\n", {}, 0.5 },
  { "<reasoning>\nstep one\n</reasoning>\n<answer>\n42\n</answer>", {}, 0.0 },
  { "<reasoning>\ns\n</reasoning>\n\n<answer>\n42\n</answer>\n", {}, 0.0 },
  { two_lines, {}, 0.0 },
  { two_lines, {}, 0.5, options = { dotall = true } },
}

return M
