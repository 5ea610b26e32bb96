--- 64. Completions with NUL, 0xFF, a mark for right-to-left, 1 MiB, Lua source: data and nothing else.
-- special: completions
return {
  score = function(completion) return #completion + completion:byte(1) / 1000 end,
}
