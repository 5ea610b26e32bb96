--- The CPU's part of recipes/medical_mix.lua on any device: the same model, data, rewards and settings, so that a
--- GPU's run can be laid beside the CPU's.
local recipe = require "recipes.medical_mix"
local small = recipe.on_cpu

for section, fields in pairs(small) do
  if #fields > 0 then -- rewards, a list
    recipe[section] = fields
  else
    for key, value in pairs(fields) do recipe[section][key] = value end
  end
end
recipe.on_cpu = nil
return recipe
