--- Between max_penalty and 0: the share of n-grams that occurred before, times max_penalty. 0 when nothing repeats or
--- the text is shorter than one n-gram.
--- TRL: get_repetition_penalty_reward, with its names and defaults. There the n-grams are of token ids; here of words
--- (runs of letters and digits in any script, every other character but white space on its own), so that recorded texts
--- can be scored again; of a very long text the first 20000. Source: arXiv:2502.03373, appendix C.2. max_penalty lies
--- in -1..0; a weight scales beyond.
local re = require "medrl.re"

local M = { name = "repetition_penalty", range = { -1.0, 0.0 }, options = { ngram_size = 3, max_penalty = -1.0 } }

local MAX_WORDS = 20000
local word = re.compile("[\\p{L}\\p{N}\\p{M}]+|\\S", "u")

function M.score(completion, _, info)
  local n, penalty = info.options.ngram_size, info.options.max_penalty
  local words, seen, unique = {}, {}, 0
  for w in word:gmatch(completion) do
    words[#words + 1] = w
    if #words == MAX_WORDS then break end
  end
  local total = #words - n + 1
  if total < 1 then return 0.0 end
  for i = 1, total do
    local gram = table.concat(words, "\0", i, i + n - 1)
    if not seen[gram] then
      seen[gram] = true
      unique = unique + 1
    end
  end
  return unique < total and (1 - unique / total) * penalty or 0.0
end

local pairs_of_two = { ngram_size = 2 }
M.cases = {
  { "1 2 3 4", {}, 0.0, options = pairs_of_two },
  { "5 5 5 5 5", {}, -0.75, options = pairs_of_two },
  { "the cat saw the cat", {}, 0.0 },
  { "no no no no no no", {}, -0.75 },
  { "no no no no no no", {}, -0.375, options = { max_penalty = -0.5 } },
  { "a b", {}, 0.0 },
  { "", {}, 0.0 },
}

M.fuzz = { allow = {
  ["*"] = { reason = "it only takes away: where nothing repeats there is nothing to take", up_to = 0.0 },
} }

return M
