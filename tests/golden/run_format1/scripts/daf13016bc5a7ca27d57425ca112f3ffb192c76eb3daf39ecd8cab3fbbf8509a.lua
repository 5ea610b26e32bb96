--- Messages and the two-block form of an answer, for recipes and data sets.
local M = {}

-- A table that came with the data and looks like markup is none: only M.markup makes it.
local made = setmetatable({}, { __mode = "k" })

function M.system(content) return { role = "system", content = content } end
function M.user(content) return { role = "user", content = content } end
function M.assistant(content) return { role = "assistant", content = content } end

--- The form that the format rewards look for, tags on their own lines (XML_COT_FORMAT of the published recipe).
function M.tagged(reasoning, answer)
  return "<reasoning>\n" .. reasoning .. "\n</reasoning>\n<answer>\n" .. answer .. "\n</answer>\n"
end

--- A piece of a rendered prompt that may hold special tokens; text without this mark never does.
function M.markup(text)
  local piece = { markup = text }
  made[piece] = true
  return piece
end
function M.is_markup(piece) return made[piece] == true end

return M
