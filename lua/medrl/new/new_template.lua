--- How messages become the text that the model sees. render gives a list of pieces: a plain string is data (special
--- tokens inside it stay text), { markup = "..." } is markup (special tokens inside it are tokens).
local M = { name = "new_template" }

--- messages: { role, content } in order. options.add_generation_prompt: the model is to go on as the assistant.
function M.render(messages, options)
  local pieces = {}
  for _, message in ipairs(messages) do
    pieces[#pieces + 1] = { markup = "<|im_start|>" }
    pieces[#pieces + 1] = message.role .. "\n"
    pieces[#pieces + 1] = message.content
    pieces[#pieces + 1] = { markup = "<|im_end|>" }
    pieces[#pieces + 1] = "\n"
  end
  if options.add_generation_prompt then
    pieces[#pieces + 1] = { markup = "<|im_start|>" }
    pieces[#pieces + 1] = "assistant\n"
  end
  return pieces
end

-- { messages, the text that comes of them, options = {} }
M.cases = {
  { { { role = "user", content = "Hello" } }, "<|im_start|>user\nHello<|im_end|>\n" },
  { { { role = "user", content = "Hello" } }, "<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n",
    options = { add_generation_prompt = true } },
}

return M
