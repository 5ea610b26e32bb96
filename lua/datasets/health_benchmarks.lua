--- Health_Benchmarks: a question with its options A to D inside, and the letter.
local text = require "medrl.text"

local M = { name = "health_benchmarks", columns = { { "Questions", "string" }, { "Answers", "string" } } }

--- The user message of every multiple-choice row of the mix.
function M.ask(question)
  return "\n\nAnswer the following question:\n" .. question
    .. "\n With 'A', 'B', 'C' or 'D'. You need to carefully review the context and reason before answering."
end

function M.row(r)
  if text.strip(r.Answers) == "" then return nil, "the answer is empty" end
  local row = {}
  for key, value in pairs(r) do row[key] = value end
  row.Questions, row.Answers = nil, nil
  row.messages = { { role = "user", content = M.ask(r.Questions) } }
  row.answer, row.db_set = r.Answers, "med_mc"
  return row
end

M.cases = {
  { { Questions = "Which?\nA) one\nB) two\nC) three\nD) four", Answers = "C" }, {
    answer = "C", db_set = "med_mc",
    messages = { { role = "user", content = "\n\nAnswer the following question:\nWhich?\nA) one\nB) two\nC) three\n"
      .. "D) four\n With 'A', 'B', 'C' or 'D'. You need to carefully review the context and reason "
      .. "before answering." } },
  } },
  { { Questions = "Which?", Answers = " " }, nil },
}

return M
