--- How messages become the text that the model sees: model.chat_template = "templates/new_template" in a recipe. The
--- file may be edited while a run goes on.
local chat = require "medrl.chat"

local M = { name = "new_template" }

--- messages: { role, content } in order. options: add_generation_prompt (the model is to go on as the assistant), date,
--- bos_token, eos_token and what model.chat_template_kwargs has. Returns a list of pieces. Special tokens are found in
--- chat.markup only: a plain string stays text, whatever it holds.
function M.render(messages, options)
  local pieces = {}
  for _, message in ipairs(messages) do
    pieces[#pieces + 1] = chat.markup "<|im_start|>"
    pieces[#pieces + 1] = message.role .. "\n" .. message.content
    pieces[#pieces + 1] = chat.markup "<|im_end|>\n"
  end
  if options.add_generation_prompt then pieces[#pieces + 1] = chat.markup "<|im_start|>assistant\n" end
  return pieces
end

-- Without options a case has { add_generation_prompt = true }.
M.cases = {
  { messages = { { role = "user", content = "Hello" } },
    text = "<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n" },
  { messages = { { role = "user", content = "Hello" } }, options = {}, text = "<|im_start|>user\nHello<|im_end|>\n" },
}

return M
