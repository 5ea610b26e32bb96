-- Writes tokenizer.json, tokenizer_config.json, config.json and generation_config.json of the nano model beside itself:
--     luajit examples/nano/make_tokenizer.lua
-- The words are those of lua/datasets/nano_tasks.lua, each with and without a space before it, whole (ignore_merges: a
-- piece of text that is in the vocabulary is one token). Everything else is spelled in bytes, so any text can be read.
-- Run again only together with a new training.
local words = [[
note list has no yes or maybe does not the say says which letter is pills in morning and evening how many plus answer
fever cough pain rash nausea chills salt iron zinc tea honey ginger mint aspirin A B C D 1 2 3 4 5 6 7 8 9
user assistant system Respond following format question reasoning context with of a]]

local here = arg and arg[0] and arg[0]:match("^(.*)/[^/]*$") or "."

-- GPT-2's byte alphabet: printable bytes stand for themselves, the others for U+0100 and on, in order.
local function utf8(c)
  if c < 0x80 then return string.char(c) end
  return string.char(0xC0 + math.floor(c / 64), 0x80 + c % 64)
end
local symbol, extra = {}, 0
for b = 0, 255 do
  if (b >= 33 and b <= 126) or (b >= 161 and b <= 172) or b >= 174 then
    symbol[b] = utf8(b)
  else
    symbol[b] = utf8(256 + extra)
    extra = extra + 1
  end
end

local function quote(s)
  return '"' .. s:gsub('[\\"]', "\\%0"):gsub("\n", "\\n") .. '"'
end

local vocab, seen = {}, {}
local function add(token)
  if not seen[token] then
    seen[token] = true
    vocab[#vocab + 1] = token
  end
end
for b = 0, 255 do add(symbol[b]) end
for word in words:gmatch("%S+") do
  add(word)
  add(symbol[32] .. word)
end
local n_words = #vocab - 256

local added = { { "<|endoftext|>", true }, { "<|im_start|>", true }, { "<|im_end|>", true }, { "<reasoning>", false },
                { "</reasoning>", false }, { "<answer>", false }, { "</answer>", false } }
local id = {}
for i, token in ipairs(added) do id[token[1]] = #vocab + i - 1 end
local vocab_size = math.ceil((#vocab + #added) / 32) * 32 -- a multiple of 32 rows, the last ones unused

local function write(name, text)
  local f = assert(io.open(here .. "/" .. name, "wb"))
  f:write(text)
  f:close()
end

local lines = {}
for i, token in ipairs(vocab) do lines[i] = ("      %s: %d"):format(quote(token), i - 1) end
local added_lines = {}
for i, token in ipairs(added) do
  added_lines[i] = ('    {"id": %d, "content": %s, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": %s}')
    :format(id[token[1]], quote(token[1]), tostring(token[2]))
end
write("tokenizer.json", table.concat({
  "{",
  '  "version": "1.0",',
  '  "truncation": null,',
  '  "padding": null,',
  '  "added_tokens": [',
  table.concat(added_lines, ",\n"),
  "  ],",
  '  "normalizer": null,',
  '  "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},',
  '  "post_processor": null,',
  '  "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},',
  '  "model": {',
  '    "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null, "end_of_word_suffix": null,',
  '    "fuse_unk": false, "byte_fallback": false, "ignore_merges": true,',
  '    "vocab": {',
  table.concat(lines, ",\n"),
  "    },",
  '    "merges": []',
  "  }",
  "}\n",
}, "\n"))

local template = "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n'}}"
  .. "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
write("tokenizer_config.json", ([[
{
  "tokenizer_class": "PreTrainedTokenizerFast",
  "model_max_length": 512,
  "bos_token": null,
  "eos_token": "<|im_end|>",
  "pad_token": "<|endoftext|>",
  "unk_token": null,
  "add_bos_token": false,
  "clean_up_tokenization_spaces": false,
  "chat_template": %s
}
]]):format(quote(template)))

write("config.json", ([[
{
  "architectures": ["LlamaForCausalLM"],
  "model_type": "llama",
  "vocab_size": %d,
  "hidden_size": 128,
  "intermediate_size": 352,
  "num_hidden_layers": 4,
  "num_attention_heads": 4,
  "num_key_value_heads": 2,
  "head_dim": 32,
  "hidden_act": "silu",
  "max_position_embeddings": 512,
  "rms_norm_eps": 1e-05,
  "rope_theta": 10000.0,
  "tie_word_embeddings": true,
  "attention_bias": false,
  "mlp_bias": false,
  "initializer_range": 0.1,
  "bos_token_id": null,
  "eos_token_id": %d,
  "pad_token_id": %d,
  "torch_dtype": "bfloat16"
}
]]):format(vocab_size, id["<|im_end|>"], id["<|endoftext|>"]))

write("generation_config.json", ('{\n  "eos_token_id": [%d, %d],\n  "pad_token_id": %d,\n  "do_sample": true,\n  "temperature": 1.0\n}\n')
  :format(id["<|im_end|>"], id["<|endoftext|>"], id["<|endoftext|>"]))

local per_layer = 2 * 128 * 128 + 2 * 64 * 128 + 3 * 128 * 352 + 2 * 128
print(("%d word tokens, vocabulary of %d, %d parameters"):format(n_words, vocab_size, vocab_size * 128 + 4 * per_layer + 128))
