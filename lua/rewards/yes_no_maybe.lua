--- yes, no or maybe, as PubMedQA asks it, in the only <answer> block.
---   2.0  exactly the word (case and a final full stop do not matter)
---   1.0  opens with the word and goes on: "Yes, because ..."
---   0.0  anything else: another word, two of the three, two blocks, no block
---   nil  the gold answer is none of the three: no opinion
local answer = require "medrl.answer"
local text = require "medrl.text"

local M = { name = "yes_no_maybe", range = { 0.0, 2.0 } }

local words = { yes = true, no = true, maybe = true }

function M.score(completion, row)
  local gold = type(row.answer) == "string" and text.lower(text.strip(row.answer))
  if not words[gold] then return nil end
  local said = answer.tagged(completion)
  if not said then return 0.0 end
  local word, rest = text.lower(said):match("^(%a+)(.*)$")
  if word ~= gold then return 0.0 end
  if rest == "" or rest == "." then return 2.0 end
  if not rest:match("^[%s,.;:]") then return 0.0 end -- "no-one"
  for other in rest:gmatch("%a+") do
    if words[other] and other ~= gold then return 0.0 end
  end
  return 1.0
end

local no = { answer = "no" }
M.cases = {
  { "<answer>No.</answer>", no, 2.0 },
  { "<reasoning>\nr\n</reasoning>\n<answer>\nno\n</answer>\n", { answer = " No " }, 2.0 },
  { "<answer>no, the trial ended</answer>", no, 1.0 },
  { "<answer>not sure</answer>", no, 0.0 },
  { "<answer>unknown</answer>", no, 0.0 },
  { "<answer>no or yes</answer>", no, 0.0 },
  { "<answer>yes</answer><answer>no</answer>", no, 0.0 },
  { "no", no, 0.0 },
  { "<answer>B</answer>", { answer = "B" }, nil },
}

return M
