--- 3. A token in the environment.
-- expect 1: N global 'os' (a nil value)
return {
  function() return os.getenv("HF_TOKEN") end,
}
