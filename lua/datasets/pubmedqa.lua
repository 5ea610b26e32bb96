--- PubMedQA: an abstract in parts, a question, and yes, no or maybe. Rows with 1024 code points of context or more are
--- left out, as published.
--- Option config = "pqa_labeled": that one of the hub's, in place of pqa_artificial.
--- Option short = true: only the last two sentences of the last part, for small models on a CPU (all rows then).
local text = require "medrl.text"

local M = {
  name = "pubmedqa",
  columns = { { "question", "string" }, { "context", "table" }, { "final_decision", "string" } },
  hub = { name = "qiaojin/PubMedQA", config = "pqa_artificial" },
}

local function contexts(r)
  local parts = r.context.contexts
  return type(parts) == "table" and parts or {}
end

--- The last n sentences: a sentence ends with . ! or ? before white space.
function M.last_sentences(s, n)
  local starts, count = { 1 }, 1
  for at in s:gmatch("[%.!?]%s+()") do
    if at <= #s then
      count = count + 1
      starts[count] = at
    end
  end
  return text.strip(s:sub(starts[math.max(1, count - n + 1)]))
end

function M.keep(r, options)
  if options.short then return true end
  if text.ulen(table.concat(contexts(r), "\n")) < 1024 then return true end
  return false, "1024 characters of context or more"
end

function M.row(r, options)
  local parts = contexts(r)
  local context = table.concat(parts, "\n")
  if options.short and #parts > 0 then context = M.last_sentences(parts[#parts], 2) end
  local row = {}
  for key, value in pairs(r) do row[key] = value end
  for _, used in ipairs { "pubid", "question", "context", "long_answer", "final_decision" } do row[used] = nil end
  row.messages = {
    { role = "user", content = "Given the scientific context below:\n" .. context
      .. "\n\nAnswer the following question:\n" .. r.question
      .. " with 'yes', 'no' or 'maybe'. You need to carefully review the context and reason before answering." },
  }
  row.answer, row.db_set = r.final_decision, "pubmedqa"
  return row
end

local function raw(parts, decision)
  return { pubid = 1, question = "Is it?", context = { contexts = parts, labels = {}, meshes = {} }, long_answer = "L",
           final_decision = decision }
end
M.cases = {
  { raw({ "One.", "Two." }, "yes"), {
    answer = "yes", db_set = "pubmedqa",
    messages = { { content = "Given the scientific context below:\nOne.\nTwo.\n\nAnswer the following question:\n"
      .. "Is it? with 'yes', 'no' or 'maybe'. You need to carefully review the context and reason "
      .. "before answering." } },
  } },
  { raw({ ("x"):rep(1023) }, "no"), { answer = "no" } },
  { raw({ ("x"):rep(1024) }, "no"), nil },
  { raw({ ("é"):rep(1023) }, "no"), { answer = "no" } }, -- code points, not bytes
  { raw({ "First. Part.", "A is 1.5 g. B is two! Is C three? It is." }, "maybe"), {
    messages = { { content = "Given the scientific context below:\nIs C three? It is.\n\n"
      .. "Answer the following question:\nIs it? with 'yes', 'no' or 'maybe'. You need to carefully review the context "
      .. "and reason before answering." } } }, options = { short = true } },
}

return M
