--- A chat template in Lua: plain ChatML. Copy it to a folder templates/ of your own and say
--- model.chat_template = "templates/NAME";
--- the file may be edited while a run goes on.
local chat = require "medrl.chat"

local M = {}

--- The prompt as a list of pieces. Special tokens are matched in chat.markup only: text that comes from a message stays
--- text, whatever it holds. options: add_generation_prompt, and what model.chat_template_kwargs has.
function M.render(messages, options)
  local out = {}
  for _, message in ipairs(messages) do
    out[#out + 1] = chat.markup "<|im_start|>"
    out[#out + 1] = message.role .. "\n" .. message.content
    out[#out + 1] = chat.markup "<|im_end|>\n"
  end
  if options.add_generation_prompt then out[#out + 1] = chat.markup "<|im_start|>assistant\n" end
  return out
end

local hello = { { role = "system", content = "Be brief." }, { role = "user", content = "Hello" } }

M.cases = {
  { messages = hello,
    text = "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n" },
  { messages = { hello[2] }, options = {}, text = "<|im_start|>user\nHello<|im_end|>\n" },
}

return M
