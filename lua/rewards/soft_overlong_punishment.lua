--- 0 up to max_completion_len - soft_punish_cache tokens, falling in a line to -1 at max_completion_len, -1 beyond.
--- TRL: get_soft_overlong_punishment, with its names; both numbers have to be chosen there, so set them here as well.
--- Source: arXiv:2503.14476 (DAPO), equation 13.
local M = { name = "soft_overlong_punishment", range = { -1.0, 0.0 },
            options = { max_completion_len = 512, soft_punish_cache = 128 } }

function M.score(_, _, info)
  local longest, cache, n = info.options.max_completion_len, info.options.soft_punish_cache, info.n_tokens
  if n <= longest - cache then return 0.0 end
  if n <= longest then return (longest - cache - n) / cache end
  return -1.0
end

local hundred = { max_completion_len = 100, soft_punish_cache = 20 }
M.cases = {
  { "x", {}, -0.5, info = { n_tokens = 90 }, options = hundred },
  { "x", {}, 0.0, info = { n_tokens = 80 }, options = hundred },
  { "x", {}, -1.0, info = { n_tokens = 100 }, options = hundred },
  { "x", {}, -1.0, info = { n_tokens = 101 }, options = hundred },
  { "x", {}, 0.0, info = { n_tokens = 100 }, options = { max_completion_len = 100, soft_punish_cache = 0 } },
}

return M
