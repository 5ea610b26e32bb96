--- 0.5 when the answer is of the right kind, whatever it says: digits for gsm8k; a text with yes, no or maybe in it for
--- pubmedqa; one with a, b, c or d in it for multiple choice. As published, containment is enough: "unknown" passes
--- through "no", and "Aspirin" through "a".
local template = require "datasets.template"
local text = require "medrl.text"

local M = { name = "valid_answer", range = { 0.0, 0.5 } }

local words = { "yes", "no", "maybe" }

function M.score(completion, row)
  local said = template.answer_of(completion)
  if row.db_set == "gsm8k" then return text.is_digit(said) and 0.5 or 0.0 end
  said = text.lower(said)
  if row.db_set == "pubmedqa" then
    for _, word in ipairs(words) do
      if text.contains(said, word) then return 0.5 end
    end
    return 0.0
  end
  return said:find("[abcd]") and 0.5 or 0.0
end

local sum, yesno, choice = { db_set = "gsm8k" }, { db_set = "pubmedqa" }, { db_set = "med_mc" }
M.cases = {
  { "<answer>\n42\n</answer>", sum, 0.5 },
  { "42", sum, 0.5 }, -- without tags the whole text is the answer
  { "<answer>\n-42\n</answer>", sum, 0.0 },
  { "<answer>\nYes\n</answer>", yesno, 0.5 },
  { "<answer>\nperhaps\n</answer>", yesno, 0.0 },
  { "<answer>\nB\n</answer>", choice, 0.5 },
  { "<answer>\n42\n</answer>", choice, 0.0 },
  { "<answer>\nhmm\n</answer>", choice, 0.0 },
}

M.fuzz = { allow = {
  odd_digit = "as published: on gsm8k digits are a valid answer, whatever the gold answer is",
} }

return M
