--- MedMCQA rows as its authors publish them: question, opa..opd, cop (1 = A ... 4 = D). Asked in the same words as
--- Health_Benchmarks.
local health = require "datasets.health_benchmarks"

local M = { name = "medmcqa", columns = {
  { "question", "string" }, { "cop", "number" }, { "opa", "string" }, { "opb", "string" },
                                          { "opc", "string" }, { "opd", "string" } } }

local letters = { "A", "B", "C", "D" }

function M.row(r)
  local letter = letters[r.cop]
  if not letter then return nil, "cop is not 1, 2, 3 or 4" end
  if r.question == "" then return nil, "the question is empty" end
  local row = {}
  for key, value in pairs(r) do row[key] = value end
  for _, used in ipairs { "question", "opa", "opb", "opc", "opd", "cop", "exp" } do row[used] = nil end
  row.messages = {
    { role = "user", content = health.ask(
      ("%s\nA) %s\nB) %s\nC) %s\nD) %s"):format(r.question, r.opa, r.opb, r.opc, r.opd)) },
  }
  row.answer, row.db_set = letter, "med_mc"
  return row
end

local function raw(cop)
  return { question = "Q?", opa = "w", opb = "x", opc = "y", opd = "z", cop = cop, subject_name = "Botany" }
end
M.cases = {
  { raw(3), { answer = "C", db_set = "med_mc", subject_name = "Botany", messages = { {
    content = "\n\nAnswer the following question:\nQ?\nA) w\nB) x\nC) y\nD) z\n With 'A', 'B', 'C' or 'D'. You need "
      .. "to carefully review the context and reason before answering." } } } },
  { raw(1), { answer = "A" } },
  { raw(5), nil },
  { raw(0), nil },
}

return M
