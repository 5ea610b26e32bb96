--- 27. A result for another sample: a script names no sample; what a broken worker sends is in test_wire.c.
-- expect 1: V returned a table
-- expect 2: OK0
return {
  function() return { id = 0, value = 2 } end,
  function(completion, row)
    row.id, completion = 0, "2"
    return 1
  end,
}
