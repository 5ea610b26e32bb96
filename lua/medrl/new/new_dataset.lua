--- One line on where the rows come from and what they ask. In a recipe: data.get "new_dataset", and the file with
--- data.files.new_dataset = "PATH" (.jsonl, .json, .csv, .tsv).
local chat = require "medrl.chat"

local M = {
  name = "new_dataset",                                        -- the file's name
  columns = { { "question", "string" }, { "answer", "string" } }, -- what each raw row has to have
}

--- One raw row in, one training row out; nil leaves it out (the count is shown). `messages` is the prompt; everything
--- else reaches the rewards as row.NAME.
function M.row(r)
  if r.question == "" then return nil end
  return {
    messages = { chat.user(r.question) },
    answer = r.answer, -- the gold answer
    db_set = "new_dataset", -- which kind of question it is
  }
end

-- { raw, what the row has to have }, or { raw, nil } for a row that is left out.
M.cases = {
  { { question = "Is it?", answer = "yes" }, { answer = "yes", messages = { { role = "user", content = "Is it?" } } } },
  { { question = "", answer = "yes" }, nil },
}

return M
