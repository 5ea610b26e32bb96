--- 57. PCRE2 patterns that backtrack: the limit ends them.
-- expect 1: OK0
return {
  function(completion, row)
    local re = require "medrl.re"
    local function limited(pattern, s)
      local found, why = re.compile(pattern):test(s)
      return found == false and (why == nil or why == "match limit reached")
    end
    local a = ("a"):rep(60)
    local found, why = re.compile("^(([a-z])+.)+[A-Z]"):test(a)
    return limited("(a+)+$", a .. "b") and limited("(a|aa)+$", a .. "b") and not found and why == "match limit reached" and 1
  end,
}
