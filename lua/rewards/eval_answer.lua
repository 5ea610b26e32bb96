--- The judge of `medrl eval` and of a run's own evaluation: is the final answer the gold answer?
---   1.0   right
---   0.0   another answer of the kind that the row asks for
---   -1.0  no such answer: no answer at all, several that differ, a word where a letter is wanted ("invalid")
---   nil   the row has no gold answer: it is left out
--- The kind comes from the gold answer: yes, no or maybe; one of the letters; a number; any other text. The final
--- answer is what \boxed{} holds, else the only <answer> block, else what follows "the answer is"
--- (lua/medrl/answer.lua).
--- A letter may carry its option's text along ("B) aspirin"), a word a reason ("yes, because"), a number its unit.
--- Options: column, the row's column with the gold answer; letters, those that can be answered.
local answer = require "medrl.answer"
local text = require "medrl.text"

local M = { name = "eval_answer", range = { -1.0, 1.0 }, options = { column = "answer", letters = "ABCDE" } }

local words = { yes = true, no = true, maybe = true }

-- The first word, when none of the two others follows it.
local function word_of(said)
  local word, rest = text.lower(said):match("^[\"'%(]*(%a+)(.*)$")
  if not words[word] or rest:match("^[^%s,.;:!%)\"']") then return nil end
  for other in rest:gmatch("%a+") do
    if words[other] and other ~= word then return nil end
  end
  return word
end

-- The letter alone, or in front of its option; not a word that begins with it.
local function letter_of(said, letters)
  local alone = said:match("^%(?([A-Za-z])%)?%.?$")
  local letter = alone and alone:upper() or said:match("^%(?([A-Z])[%).:]")
  if not letter or not letters:find(letter, 1, true) then return nil end
  for other in said:sub(3):gmatch("%f[%a]([A-Z])%f[^%a][%).:,]") do
    if other ~= letter and letters:find(other, 1, true) then return nil end
  end
  return letter
end

function M.score(completion, row, info)
  local gold = answer.gold(row, info.options.column)
  if not gold then return nil end
  gold = text.strip(gold)
  local said, letters = answer.final(completion), info.options.letters
  if not said or said == "" then return -1.0 end
  if words[text.lower(gold)] then
    local word = word_of(said)
    return word and (word == text.lower(gold) and 1.0 or 0.0) or -1.0
  end
  if #gold == 1 and letters:find(gold, 1, true) then
    local letter = letter_of(said, letters)
    return letter and (letter == gold and 1.0 or 0.0) or -1.0
  end
  local wanted = answer.number((gold:gsub("^%$", "")))
  if not wanted then return answer.equal(said, gold) and 1.0 or 0.0 end
  local number = answer.last_number(said)
  return number and (answer.near(number, wanted) and 1.0 or 0.0) or -1.0
end

local yes, B, sum = { answer = "yes" }, { answer = "B" }, { answer = "1,200" }
M.cases = {
  { "<reasoning>\nr\n</reasoning>\n<answer>\nYes.\n</answer>\n", yes, 1.0 },
  { "<answer>no, the trial ended</answer>", yes, 0.0 },
  { "<answer>perhaps</answer>", yes, -1.0 },
  { "<answer>yes and no</answer>", yes, -1.0 },
  { "I think yes", yes, -1.0 }, -- nothing says that this is the answer
  { "The answer is yes.", yes, 1.0 },
  { "<answer>B) aspirin</answer>", B, 1.0 },
  { "<answer>(c)</answer>", B, 0.0 },
  { "<answer>Because</answer>", B, -1.0 },
  { "<answer>B) aspirin, C) zinc</answer>", B, -1.0 },
  { "<answer>B</answer><answer>C</answer>", B, -1.0 },
  { "<answer>\n$1200.00\n</answer>", sum, 1.0 },
  { "<answer>1200 pills</answer>", sum, 1.0 },
  { "So it is \\boxed{1201}.", sum, 0.0 },
  { "<answer>many</answer>", sum, -1.0 },
  { "<answer>5</answer>", { answer = "$5" }, 1.0 },
  { "<answer>Paris</answer>", { answer = "Paris" }, 1.0 },
  { "<answer>Rome</answer>", { answer = "Paris" }, 0.0 },
  { "", yes, -1.0 },
  { "<answer>yes</answer>", {}, nil },
  { "<answer>E</answer>", B, 0.0 },
  { "<answer>E</answer>", B, -1.0, options = { letters = "ABCD" } },
}

return M
