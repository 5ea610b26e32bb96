--- Messages and the two-block form of an answer, for recipes and data sets.
local M = {}

function M.system(content) return { role = "system", content = content } end
function M.user(content) return { role = "user", content = content } end
function M.assistant(content) return { role = "assistant", content = content } end

--- The form that the format rewards look for, tags on their own lines (XML_COT_FORMAT of the published recipe).
function M.tagged(reasoning, answer)
  return "<reasoning>\n" .. reasoning .. "\n</reasoning>\n<answer>\n" .. answer .. "\n</answer>\n"
end

return M
