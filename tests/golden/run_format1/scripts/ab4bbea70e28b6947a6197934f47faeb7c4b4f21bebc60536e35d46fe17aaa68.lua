--- Three small tasks in some seventy words, made by index: a finding in a note (yes, no, maybe), a name in a list (A to
--- D), two numbers to add.
--- For the nano model (examples/nano): what it can learn in minutes. Says nothing about medicine.
--- Options: n rows; seed; sft = true adds the assistant's message; broken_from = 0.8: from this share of the rows on,
--- half of the answers are drawn at random and half of the texts lack the full form, so that the trained model can but
--- does not always (GRPO needs both).
local chat = require "medrl.chat"
local rng = require "medrl.rng"

local M = { name = "nano_tasks" }

M.findings = { "fever", "cough", "pain", "rash", "nausea", "chills" }
M.names = { "salt", "iron", "zinc", "tea", "honey", "ginger", "mint", "aspirin" }
local letters = { "A", "B", "C", "D" }

-- The k-th draw of row i: a whole number 1..n.
local function draw(seed, i, k, n)
  return 1 + math.floor(rng.uniform(seed, i, k) * n)
end

-- Three of the findings or four of the names, different ones, in a drawn order.
local function pick(seed, i, k, list, n)
  local rest, out = {}, {}
  for j = 1, #list do rest[j] = list[j] end
  for j = 1, n do out[j] = table.remove(rest, draw(seed, i, k + j, #rest)) end
  return out
end

local make = {}

-- note: has fever. no cough. does the note say rash?
function make.finding(seed, i)
  local f = pick(seed, i, 10, M.findings, 3)
  local asked = draw(seed, i, 20, 3)
  local answer = ({ "yes", "no", "maybe" })[asked]
  local first, second = "has " .. f[1], "no " .. f[2]
  if draw(seed, i, 21, 2) == 2 then first, second = second, first end
  local why = ({ "the note says has " .. f[1], "the note says no " .. f[2], "the note does not say " .. f[3] })[asked]
  local note = ("note: %s. %s. does the note say %s? yes, no or maybe"):format(first, second, f[asked])
  return note, why, answer, "pubmedqa", ({ "yes", "no", "maybe" })[draw(seed, i, 22, 3)]
end

-- list: A salt, B iron, C tea, D mint. which letter is tea?
function make.choice(seed, i)
  local names = pick(seed, i, 10, M.names, 4)
  local asked = draw(seed, i, 20, 4)
  local form = "list: A %s, B %s, C %s, D %s. which letter is %s?"
  return form:format(names[1], names[2], names[3], names[4], names[asked]),
    letters[asked] .. " is " .. names[asked], letters[asked], "med_mc", letters[draw(seed, i, 22, 4)]
end

-- 3 pills in the morning and 4 in the evening. how many pills?
function make.sum(seed, i)
  local a, b = draw(seed, i, 10, 5), draw(seed, i, 11, 4)
  return ("%d pills in the morning and %d in the evening. how many pills?"):format(a, b),
    ("%d plus %d is %d"):format(a, b, a + b), tostring(a + b), "gsm8k", tostring(1 + draw(seed, i, 22, 8))
end

local tasks = { "finding", "choice", "sum" }

-- Texts that lack the full form, each in its own way.
local broken_forms = {
  function(why, answer) return "<reasoning>\n" .. why .. "\n</reasoning>\n" .. answer .. "\n" end,
  function(_, answer) return "the answer is " .. answer .. "\n" end,
  function(why, answer) return "<reasoning>\n" .. why .. "\n</reasoning>\n<answer>\n" .. answer .. "\n" end,
}

function M.load(options)
  local n, seed = options.n or 1000, options.seed or 1
  local clean = options.broken_from and math.floor(n * options.broken_from) or n
  return {
    n = n,
    get = function(i)
      local kind = tasks[draw(seed, i, 1, 3)]
      local question, why, answer, db_set, random = make[kind](seed, i)
      local said, form = answer, nil
      if i > clean then
        if draw(seed, i, 2, 2) == 2 then said = random end
        if draw(seed, i, 3, 2) == 2 then form = broken_forms[draw(seed, i, 4, #broken_forms)] end
      end
      return { kind = kind, question = question, answer = answer, db_set = db_set,
               target = form and form(why, said) or chat.tagged(why, said) }
    end,
  }
end

function M.row(r, options)
  local messages = { chat.user(r.question) }
  if options.sft then messages[2] = chat.assistant(r.target) end
  return { messages = messages, answer = r.answer, db_set = r.db_set, kind = r.kind }
end

M.cases = {
  { { question = "3 pills", answer = "7", db_set = "gsm8k", kind = "sum", target = "T" },
    { answer = "7", db_set = "gsm8k", messages = { { role = "user", content = "3 pills" } } } },
  { { question = "Q", answer = "A", db_set = "med_mc", kind = "choice", target = "T" },
    { messages = { { content = "Q" }, { role = "assistant", content = "T" } } }, options = { sft = true } },
}

return M
