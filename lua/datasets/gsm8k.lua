--- GSM8K: grade-school word problems; the gold answer stands behind "####".
local text = require "medrl.text"

local M = {
  name = "gsm8k",
  columns = { { "question", "string" }, { "answer", "string" } },
  hub = { name = "openai/gsm8k", config = "main" },
}

--- The part between the first and the second "####"; nil without one. Commas stay.
function M.gold(answer)
  if not text.contains(answer, "####") then return nil end
  local behind = answer:match("####(.*)$")
  return text.strip(text.before_first(behind, "####"))
end

function M.row(r)
  local gold = M.gold(r.answer)
  -- an empty gold answer is contained in everything: no row
  if not gold or gold == "" then return nil, "no gold answer behind \"####\"" end
  local row = {}
  for key, value in pairs(r) do row[key] = value end
  row.question = nil
  row.messages = { { role = "user", content = r.question } }
  row.answer, row.db_set = gold, "gsm8k"
  return row
end

M.cases = {
  { { question = "Q?", answer = "48/2 = <<48/2=24>>24\n#### 72" },
    { answer = "72", db_set = "gsm8k", messages = { { role = "user", content = "Q?" } } } },
  { { question = "Q?", answer = "a #### 1 #### 2" }, { answer = "1" } },
  { { question = "Q?", answer = "#### 1,200 " }, { answer = "1,200" } },
  { { question = "Q?", answer = "x\n#### $5\n" }, { answer = "$5" } },
  { { question = "Q?", answer = "no marker" }, nil },
  { { question = "Q?", answer = "####" }, nil },
}

return M
