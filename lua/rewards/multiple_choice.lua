--- The letter of a multiple-choice answer, in the only <answer> block.
---   2.0  the right letter and nothing else (a bracket or full stop around it does not matter)
---   1.0  it opens with the right letter and then says more: "B) aspirin"
---   0.0  anything else: another letter, a word that begins with it, two letters, two blocks, no block
---   nil  the gold answer is not one of the letters: this function has no opinion, and is left out of the sum
--- Options: letters, those that can be answered.
local answer = require "medrl.answer"

local M = { name = "multiple_choice", range = { 0.0, 2.0 }, options = { letters = "ABCD" } }

function M.score(completion, row, info)
  local gold, letters = row.answer, info.options.letters
  if type(gold) ~= "string" or #gold ~= 1 or not letters:find(gold, 1, true) then return nil end
  local said = answer.tagged(completion)
  if not said then return 0.0 end
  local letter = said:match("^%(?([A-Za-z])%)?%.?$")
  if letter then return letter:upper() == gold and 2.0 or 0.0 end
  letter = said:match("^%(?([A-Z])[%).:]")
  if letter ~= gold then return 0.0 end
  -- a second letter with a bracket or a full stop behind it: more than one was chosen
  for other in said:sub(3):gmatch("%f[%a]([A-Z])%f[^%a][%).:,]") do
    if letters:find(other, 1, true) then return 0.0 end
  end
  return 1.0
end

local B = { answer = "B" }
M.cases = {
  { "<reasoning>r</reasoning><answer>B</answer>", B, 2.0 },
  { "<reasoning>r</reasoning><answer> (B) </answer>", B, 2.0 },
  { "<answer>b.</answer>", B, 2.0 },
  { "<answer>B) aspirin</answer>", B, 1.0 },
  { "<answer>B: aspirin</answer>", B, 1.0 },
  { "<answer>B) aspirin, C) zinc</answer>", B, 0.0 }, -- two letters are no answer
  { "<answer>C</answer>", B, 0.0 },
  { "<answer>B</answer> no: <answer>C</answer>", B, 0.0 }, -- nor are two blocks
  { "<answer>A patient needs rest</answer>", { answer = "A" }, 0.0 }, -- a word, not a letter
  { "<answer>Aspirin</answer>", { answer = "A" }, 0.0 },
  { "<answer>ABCD</answer>", B, 0.0 },
  { "the answer is B", B, 0.0 },
  { "<reasoning>r <answer>B</answer></reasoning>", B, 0.0 }, -- the reasoning goes on behind it
  { "<answer>E</answer>", { answer = "E" }, 2.0, options = { letters = "ABCDE" } },
  { "<answer>yes</answer>", { answer = "yes" }, nil },
}

return M
