--- 0.5 when the reasoning ends with two words that stand together in the question.
local text = require "medrl.text"

local M = { name = "cites", range = { 0.0, 0.5 } }

function M.score(completion, row, info)
  if row.db_set ~= "pubmedqa" then return nil end -- no opinion on sums and letters
  local said = text.last_between(completion, "<reasoning>", "</reasoning>")
  if not said then return 0.0 end
  local words = {}
  for word in text.lower(said):gmatch("%a+") do words[#words + 1] = word end
  if #words < 2 then return 0.0 end
  local last = words[#words - 1] .. " " .. words[#words]
  return text.contains(text.lower(info.prompt), last) and 0.5 or 0.0
end

local note, asked = { db_set = "pubmedqa" }, { prompt = "note: has fever. no rash. does the note say fever?" }
M.cases = {
  { "<reasoning>\nthe note says has fever\n</reasoning>\n<answer>\nyes\n</answer>\n", note, 0.5, info = asked },
  { "<reasoning>\nthe note says has chills\n</reasoning>\n<answer>\nyes\n</answer>\n", note, 0.0, info = asked },
  { "<reasoning>\nthe note says No Rash.\n</reasoning>\n<answer>\nno\n</answer>\n", note, 0.5, info = asked },
  { asked.prompt, note, 0.0, info = asked }, -- the question sent back
  { "<answer>\n7\n</answer>\n", { db_set = "gsm8k" }, nil },
}

return M
