--- The data sets of `medrl eval MODEL --data gsm8k=PATH`: each set is read from the file that is named for it; those
--- without one are left out. There is nothing to train here; a recipe's own data.eval is `--data RECIPE`.
local data = require "medrl.data"

local names = { "gsm8k", "pubmedqa", "medmcqa", "health_benchmarks" }
local sets, files = {}, {}
for i, name in ipairs(names) do
  sets[i] = data.get(name)
  files[name] = "none"
end

return {
  model   = { name = "smollm2-135m-instruct" },
  data    = { train = data.concatenate(sets), eval = data.concatenate(sets), files = files },
  rewards = { "eval_answer" },
}
