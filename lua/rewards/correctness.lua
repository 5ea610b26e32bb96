--- Whether the answer is right.
---   gsm8k   2.0 exactly the gold answer; 1.0 the gold answer is among what was said; 0.0 otherwise
---   others  2.0 the gold answer but for case; 0.0 otherwise
--- The published code asks for containment first, so that 2.0 is never reached on gsm8k:
--- rewards/correctness_published.lua.
local template = require "datasets.template"
local text = require "medrl.text"

local M = { name = "correctness", range = { 0.0, 2.0 } }

function M.score(completion, row)
  local said, gold = template.answer_of(completion), row.answer
  if row.db_set == "gsm8k" then
    if said == gold then return 2.0 end
    return text.contains(said, gold) and 1.0 or 0.0
  end
  return text.lower(said) == text.lower(text.strip(gold)) and 2.0 or 0.0
end

local sum, yesno = { db_set = "gsm8k", answer = "42" }, { db_set = "pubmedqa", answer = "yes" }
local choice = { db_set = "med_mc", answer = "B" }
M.cases = {
  { "<answer>\n42\n</answer>", sum, 2.0 },
  { "<answer>\n42 apples\n</answer>", sum, 1.0 },
  { "<answer>\n7\n</answer>", sum, 0.0 },
  { "<answer>\nYes\n</answer>", yesno, 2.0 },
  { "<answer>\nyes.\n</answer>", yesno, 0.0 },
  { "<answer>\nb\n</answer>", choice, 2.0 },
  { "<answer>\nB) ibuprofen\n</answer>", choice, 0.0 },
}

local contained = "as published: on gsm8k a gold answer that is anywhere in the answer is worth 1.0"
local last_tag = "as published: the text behind the last <answer> is the answer, whatever stands around it"
M.fuzz = { allow = {
  two_boxes = contained, enumerate_spaces = contained, enumerate_commas = contained, enumerate_lines = contained,
  enumerate_boxes = contained, digits_glued = contained, odd_minus_nan = contained,
  number_inside_think = last_tag, two_answers = last_tag, tag_inside_think = last_tag, letter_inside_think = last_tag,
  letter_tags = last_tag, letter_tags_back = last_tag, two_blocks = last_tag, word_inside_reasoning = last_tag,
  word_tags = last_tag, word_tags_back = last_tag,
} }

return M
