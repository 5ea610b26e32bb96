--- 0.5 when the text begins with a reasoning block and then an answer block; what follows does not matter.
--- As published, "." stops at a newline, so tags on their own lines score 0. Options:
---   dotall  a block may span lines
---   search  the blocks may begin anywhere
local re = require "medrl.re"

local M = { name = "soft_format", range = { 0.0, 0.5 }, options = { dotall = false, search = false } }

local pattern = "<reasoning>.*?</reasoning>" .. re.space .. "*<answer>.*?</answer>"
local one_line, many_lines = re.compile(pattern), re.compile(pattern, "s")

function M.score(completion, _, info)
  local shape = info.options.dotall and many_lines or one_line
  -- a text that exceeds the match limit does not have the shape
  if info.options.search then return shape:test(completion) and 0.5 or 0.0 end
  return shape:match(completion) and 0.5 or 0.0
end

local laid_out = "<reasoning>\nstep one\n</reasoning>\n<answer>\n42\n</answer>\n"
M.cases = {
  { "<reasoning>step</reasoning><answer>42</answer> and more", {}, 0.5 },
  { "<reasoning>step</reasoning>  \n <answer>42</answer>", {}, 0.5 },
  { " <reasoning>step</reasoning><answer>42</answer>", {}, 0.0 },
  { " <reasoning>step</reasoning><answer>42</answer>", {}, 0.5, options = { search = true } },
  { laid_out, {}, 0.0 },
  { laid_out, {}, 0.5, options = { dotall = true } },
  { "<answer>42</answer><reasoning>step</reasoning>", {}, 0.0 },
}

return M
