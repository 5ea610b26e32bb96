--- Correctness in the published order: on gsm8k containment is asked first and gives 1.0, so the 2.0 for equality is
--- never reached. For comparing runs with the published recipe; rewards/correctness.lua is what its text describes.
local template = require "datasets.template"
local text = require "medrl.text"

local M = { name = "correctness_published", range = { 0.0, 2.0 } }

function M.score(completion, row)
  local said, gold = template.answer_of(completion), row.answer
  if row.db_set == "gsm8k" then return text.contains(said, gold) and 1.0 or 0.0 end
  return text.lower(said) == text.lower(text.strip(gold)) and 2.0 or 0.0
end

local sum = { db_set = "gsm8k", answer = "42" }
M.cases = {
  { "<answer>\n42\n</answer>", sum, 1.0 },
  { "<answer>\n1425\n</answer>", sum, 1.0 },
  { "<answer>\n7\n</answer>", sum, 0.0 },
  { "<answer>\nYes\n</answer>", { db_set = "pubmedqa", answer = " yes " }, 2.0 },
  { "<answer>\nC\n</answer>", { db_set = "med_mc", answer = "B" }, 0.0 },
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
