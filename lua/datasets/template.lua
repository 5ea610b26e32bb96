--- The prompt that every data set of the mix shares, and how its answer is read. Only this file decides the two tags.
local text = require "medrl.text"

local M = { tags = { "reasoning", "answer" } }

M.system = "\nRespond in the following format:\n<reasoning>\n...\n</reasoning>\n<answer>\n...\n</answer>\n"

--- What a completion answers: the text behind the last <answer> (all of it when there is none), up to the first
--- </answer>, without white space around it. As published: "42" without any tag answers "42".
function M.answer_of(completion)
  return text.strip(text.before_first(text.after_last(completion, "<answer>"), "</answer>"))
end

return M
