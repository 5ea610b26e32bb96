--- 31. A table of answers of other samples.
-- expect 1: OK0
-- expect 2: OK0
-- expect 3: OK0
-- expect 4: OK0
return {
  function(completion, row)
    answers = answers or {}
    answers[#answers + 1] = row.answer
    return 1
  end,
  function() return answers == nil and 1 end,
  function(completion, row)
    row.answer = "changed"
    return 1
  end,
  function(completion, row) return row.answer == "gold" and 1 end,
}
