-- Writes the four small data sets beside itself: luajit examples/data/make.lua
-- Everything is put together from the templates and lists below, with a fixed generator of numbers, so the files are
-- the same on every machine.
-- The facts are everyday ones that anyone can check; answers are computed or stand in the lists; their letters and
-- words are balanced.
local here = arg and arg[0] and arg[0]:match("^(.*)/[^/]*$") or "."

-- Numerical Recipes' 32-bit linear congruential generator; the high bits are used.
local state = 20240229
local function random(n)
  state = (state * 1664525 + 1013904223) % 4294967296
  return 1 + math.floor(state / 65536) % n
end
local function any(list) return list[random(#list)] end
local function shuffled(list)
  local t = {}
  for i, x in ipairs(list) do t[i] = x end
  for i = #t, 2, -1 do
    local j = random(i)
    t[i], t[j] = t[j], t[i]
  end
  return t
end

local function quote(s) return '"' .. s:gsub('[\\"]', "\\%0"):gsub("\n", "\\n") .. '"' end
local function json(x)
  if type(x) == "string" then return quote(x) end
  if type(x) ~= "table" then return tostring(x) end
  local parts = {}
  if x.keys then -- an object: { keys = { "a", "b" }, a = ..., b = ... }
    for i, k in ipairs(x.keys) do parts[i] = quote(k) .. ": " .. json(x[k]) end
    return "{" .. table.concat(parts, ", ") .. "}"
  end
  for i, v in ipairs(x) do parts[i] = json(v) end
  return "[" .. table.concat(parts, ", ") .. "]"
end
local function write(name, rows)
  local f = assert(io.open(here .. "/" .. name, "wb"))
  for _, row in ipairs(rows) do f:write(json(row), "\n") end
  f:close()
  print(("%s: %d rows"):format(name, #rows))
end
local function fill(s, values)
  return (s:gsub("{(%w+)}", function(k) return tostring(values[k]) end))
end

-- 1. Arithmetic in GSM8K's schema
-- ------------------------------------------------------------------------------------------------------------

local people = { "Anna", "Ben", "Carla", "David", "Elena", "Farid", "Grace", "Hugo", "Ines", "Jonas", "Kemi", "Lukas", "Mina", "Noah", "Olga",
  "Pablo" }
local fruit = { "apples", "pears", "plums", "oranges", "lemons", "peaches" }
local things = { "books", "pencils", "postcards", "buttons", "shells", "marbles", "stickers", "stamps" }
local baked = { "rolls", "muffins", "pies", "cookies", "pancakes", "scones" }

local problems = {
  function()
    local a, b = 2 + random(30), 1 + random(20)
    return "{p} has {a} {x} and finds {b} more. How many {x} does {p} have now?", "{p} has {a} + {b} = <<{a}+{b}={r}>>{r} {x}.",
      { p = any(people), x = any(things), a = a, b = b, r = a + b }
  end,
  function()
    local b = 1 + random(15)
    local a = b + random(25)
    return "{p} picks {a} {x} and gives {b} of them to a neighbor. How many {x} are left?", "There are {a} - {b} = <<{a}-{b}={r}>>{r} {x} left.",
      { p = any(people), x = any(fruit), a = a, b = b, r = a - b }
  end,
  function()
    local a, b = 2 + random(9), 2 + random(11)
    return "A baker fills {a} trays with {b} {x} each. How many {x} are there in all?", "There are {a} * {b} = <<{a}*{b}={r}>>{r} {x}.",
      { x = any(baked), a = a, b = b, r = a * b }
  end,
  function()
    local b, r = 1 + random(8), 1 + random(12)
    return "{p} shares {a} {x} equally among {b} friends. How many {x} does each friend get?", "Each friend gets {a} / {b} = <<{a}/{b}={r}>>{r} {x}.",
      { p = any(people), x = any(fruit), a = b * r, b = b, r = r }
  end,
  function()
    local a, b, c = 1 + random(9), 1 + random(9), 1 + random(20)
    local m = a * b
    return "{p} buys {a} boxes with {b} {x} in each and already had {c} {x}. How many {x} does {p} have?",
      "The boxes hold {a} * {b} = <<{a}*{b}={m}>>{m} {x}.\n{p} has {m} + {c} = <<{m}+{c}={r}>>{r} {x}.",
      { p = any(people), x = any(things), a = a, b = b, c = c, m = m, r = m + c }
  end,
  function()
    local a, b, c = 5 + random(40), 2 + random(9), 1 + random(5) -- c is at least 2
    local m = b * c
    a = a + m
    return "{p} has ${a} and buys {c} {x} for ${b} each. How many dollars does {p} have left?",
      "The {x} cost {b} * {c} = $<<{b}*{c}={m}>>{m}.\n{p} has {a} - {m} = $<<{a}-{m}={r}>>{r} left.",
      { p = any(people), x = any { "tickets", "mugs", "plants", "maps", "scarves" }, a = a, b = b, c = c, m = m, r = a - m }
  end,
  function()
    local a, b, c = random(6), 1 + random(7), 1 + random(7)
    local m = b + c
    return "{p} walks {b} km in the morning and {c} km in the evening, every day. How many km does {p} walk in {d} days?",
      "In a day {p} walks {b} + {c} = <<{b}+{c}={m}>>{m} km.\nIn {d} days that is {m} * {d} = <<{m}*{d}={r}>>{r} km.",
      { p = any(people), b = b, c = c, d = a + 1, m = m, r = m * (a + 1) }
  end,
  function()
    local a, b = 3 + random(20), 1 + random(10)
    local m = a + b
    return "{p} is {a} years old. {q} is {b} years older. What do their ages sum to?",
      "{q} is {a} + {b} = <<{a}+{b}={m}>>{m} years old.\nTogether that is {a} + {m} = <<{a}+{m}={r}>>{r} years.",
      { p = "Tim", q = any { "Rosa", "Omar", "Julia", "Marta" }, a = a, b = b, m = m, r = a + m }
  end,
  function()
    local a, b, c = 2 + random(5), 5 + 5 * random(8), 1 + random(19)
    local m = a * b
    return "A train makes {a} trips with {b} passengers each. {c} more passengers take a bus. How many passengers travel?",
      "The train carries {a} * {b} = <<{a}*{b}={m}>>{m} passengers.\nWith the bus {m} + {c} = <<{m}+{c}={r}>>{r} passengers travel.",
      { a = a, b = b, c = c, m = m, r = m + c }
  end,
  function()
    local half, b = 2 + random(20), 1 + random(9)
    local a = 2 * half
    return "A jar holds {a} {x}. {p} takes half of them and then puts {b} back. How many {x} are in the jar?",
      "Half of them is {a} / 2 = <<{a}/2={m}>>{m}.\nThen there are {m} + {b} = <<{m}+{b}={r}>>{r} {x} in the jar.",
      { p = any(people), x = any(things), a = a, b = b, m = half, r = half + b }
  end,
}

local gsm8k, asked = {}, {}
local turn = 0
while #gsm8k < 160 do
  turn = turn % #problems + 1
  local question, steps, values = problems[turn]()
  question = fill(question, values)
  if not asked[question] then
    asked[question] = true
    gsm8k[#gsm8k + 1] = { keys = { "question", "answer" }, question = question, answer = fill(steps, values) .. "\n#### " .. values.r }
  end
end
write("gsm8k.jsonl", gsm8k)

-- 2. Small abstracts in PubMedQA's schema
-- ----------------------------------------------------------------------------------------------------
-- In each line the first way gives the larger number: why it was asked; what was counted; first and second way; a
-- typical number of each; the question with {1} the larger and {2} the smaller way.
local studies = {
  { "Plants make their green color with the help of light.", "green leaves", "bean plants at a sunny window", "bean plants in a dark cupboard", 9, 2,
    "Do {1} have more green leaves than {2}?", "plants" },
  { "Ice takes heat from the air around it.", "minutes until an ice cube had melted", "cubes kept in a refrigerator", "cubes on a sunny sill", 95, 22,
    "Do {1} last longer than {2}?", "kitchen" },
  { "A lid keeps warm steam inside a pot.", "minutes until the water boiled", "pots without a lid", "pots with a lid", 11, 8,
    "Do {1} need more time to boil than {2}?", "kitchen" },
  { "Sugar is stirred into many drinks.", "seconds until a sugar cube was gone", "cups of cold tea", "cups of hot tea", 180, 35,
    "Do sugar cubes last longer in {1} than in {2}?", "kitchen" },
  { "Many people walk for pleasure.", "heartbeats a minute", "walkers on an uphill path", "walkers on a level path", 124, 98,
    "Do the hearts of {1} beat faster than those of {2}?", "walking" },
  { "Bread loses water to the air.", "days until a loaf was hard", "loaves in a closed bag", "loaves on an open board", 5, 2,
    "Do {1} stay soft longer than {2}?", "kitchen" },
  { "Fruit goes on ripening after it is picked.", "days until a green banana was yellow", "bananas in a cool pantry", "bananas in a warm kitchen", 7,
    4, "Do {1} stay green longer than {2}?", "kitchen" },
  { "Wet cloth dries when water leaves it.", "hours until a shirt was dry", "shirts in a closed room", "shirts on a windy line", 14, 4,
    "Do {1} need more time to dry than {2}?", "home" },
  { "Small step counters are cheap.", "steps a day", "workers who came on foot", "workers who came by car", 9200, 4100,
    "Do {1} take more steps a day than {2}?", "walking" },
  { "Reading rooms differ in their lamps.", "pages read in half an hour", "readers under a bright lamp", "readers by one candle", 19, 12,
    "Do {1} read more pages than {2}?", "home" },
  { "Yeast makes the gas that lifts dough.", "centimeters that the dough rose", "bowls near a warm oven", "bowls in a cold cellar", 9, 3,
    "Does dough in {1} rise higher than in {2}?", "kitchen" },
  { "Dark colors take up more light.", "degrees after an hour in the sun", "black towels", "white towels", 47, 36,
    "Do {1} get warmer in the sun than {2}?", "home" },
  { "Puddles vanish after rain.", "hours until a puddle was gone", "puddles in the shade", "puddles in the sun", 9, 3,
    "Do {1} last longer than {2}?", "weather" },
  { "Hot food gives its heat to the room.", "degrees of the soup after an hour", "flasks with a lid", "open bowls", 68, 29,
    "Is soup in {1} warmer after an hour than in {2}?", "kitchen" },
  { "Noise can keep people awake.", "minutes until sleep", "sleepers beside a loud street", "sleepers in a quiet yard", 41, 17,
    "Do {1} need more time to fall asleep than {2}?", "sleep" },
  { "Some people keep the same bedtime every day.", "mornings a month on which they felt rested", "adults with a fixed bedtime",
    "adults with a changing bedtime", 21, 13, "Do {1} feel rested on more mornings than {2}?", "sleep" },
  { "Heat has to reach the middle of a vegetable.", "minutes until a carrot was soft", "whole carrots", "carrots in thin slices", 24, 8,
    "Do {1} need more time to cook than {2}?", "kitchen" },
  { "Hens lay by the length of the day.", "eggs a week from ten hens", "flocks in June", "flocks in December", 56, 24,
    "Do {1} lay more eggs than {2}?", "farm" },
  { "Bees fly out for nectar.", "bees at a lavender bush in an hour", "sunny days", "rainy days", 64, 5,
    "Are there more bees at the bush on {1} than on {2}?", "garden" },
  { "An egg sinks in plain water.", "eggs of ten that floated", "bowls of very salty water", "bowls of tap water", 9, 0,
    "Do more eggs float in {1} than in {2}?", "kitchen" },
  { "A flame needs fresh air.", "seconds that a candle burned", "candles in the open", "candles under a jar", 900, 38,
    "Do {1} burn longer than {2}?", "home" },
  { "Straw on the ground holds moisture.", "days until the soil was dry", "beds covered with straw", "bare beds", 8, 3,
    "Do {1} stay moist longer than {2}?", "garden" },
  { "Soft tires waste some of a rider's work.", "meters rolled without pedaling", "bicycles with full tires", "bicycles with soft tires", 140, 85,
    "Do {1} roll farther than {2}?", "travel" },
  { "Kitchen paper is sold in one and two layers.", "milliliters of water taken up", "sheets with two layers", "sheets with one layer", 21, 12,
    "Do {1} take up more water than {2}?", "home" },
}

local methods = {
  "We compared {1} with {2}, {n} of each, and noted the {what}.",
  "The {what} were written down for {n} {1} and for {n} {2}.",
  "Over three weeks we followed {n} {1} and {n} {2}; the outcome was the {what}.",
}
local clear_results = {
  "For {1} we noted {a} on average and for {2} {b}. The difference was seen in all three repeats.",
  "The mean was {a} for {1} and {b} for {2}. No repeat went the other way.",
  "With {1} the number was {a}; with {2} it was {b}. This held on every day of the study.",
}
local open_results = {
  "In the first repeat {1} had the higher number, in the second {2} had. The means, {a} and {c}, were too close to tell them apart.",
  "Only three {1} and three {2} could be counted, with {a} and {c} on average. So few numbers do not settle the question.",
  "Two repeats had to be stopped early, and the rest gave {a} for {1} and {c} for {2}. Whether there is a difference stays open.",
}

local pubmedqa = {}
local decisions = { "yes", "no", "maybe" }
for round = 1, 2 do
  for s, study in ipairs(studies) do
    for d = 1, 3 do
      local decision = decisions[(d + s + round) % 3 + 1]
      local one, two = study[3], study[4]
      local a = math.max(1, math.floor(study[5] * (92 + random(16)) / 100 + 0.5))
      local b = math.floor(study[6] * (92 + random(16)) / 100 + 0.5)
      local n = 8 + 2 * random(16)
      -- a result that settles nothing: the second number lies beside the first
      local close = a > 20 and a - math.floor(a / 40) - 1 or a
      local values = { ["1"] = one, ["2"] = two, what = study[2], n = n, a = a, b = b, c = close }
      local asked_first, asked_second = one, two
      if decision == "no" then asked_first, asked_second = two, one end
      local question = fill(study[7], { ["1"] = asked_first, ["2"] = asked_second })
      local result = fill(any(decision == "maybe" and open_results or clear_results), values)
      local long = decision == "maybe" and "These numbers do not decide it."
        or fill("The numbers were higher for {1} than for {2}.", values)
      pubmedqa[#pubmedqa + 1] = {
        keys = { "pubid", "question", "context", "long_answer", "final_decision" },
        pubid = 1000 + #pubmedqa + 1, question = question, long_answer = long, final_decision = decision,
        context = { keys = { "contexts", "labels", "meshes" },
                    contexts = { study[1] .. " We asked whether it makes a difference in daily life.", fill(any(methods), values), result },
                    labels = { "BACKGROUND", "METHODS", "RESULTS" }, meshes = { study[8] } },
      }
    end
  end
end
write("pubmedqa.jsonl", shuffled(pubmedqa))

-- 3. and 4. Multiple choice
-- ------------------------------------------------------------------------------------------------------------------

local letters = { "A", "B", "C", "D" }
-- Puts the right answer at a place that goes round, the wrong ones around it in a drawn order.
local place = 0
local function options(right, wrong)
  place = place % 4 + 1
  local order = shuffled(wrong)
  local four = { order[1], order[2], order[3] }
  table.insert(four, place, right)
  return four, place
end

-- A question, the right answer, three to five wrong ones.
local daily = {
  { "Which part of the body pumps blood?", "the heart", { "the stomach", "the knee", "the ear", "the elbow" } },
  { "Which part of the body takes in air?", "the lungs", { "the teeth", "the kidneys", "the heels", "the ears" } },
  { "With which part of the body do people hear?", "the ears", { "the eyes", "the elbows", "the knees", "the hair" } },
  { "With which part of the body do people see?", "the eyes", { "the ears", "the shoulders", "the toes", "the nose" } },
  { "What do teeth do to food?", "they chew it", { "they smell it", "they pump it", "they warm it", "they color it" } },
  { "What is good to do before a meal?", "wash the hands", { "hold the breath", "look at the sun", "close the ears", "skip the water" } },
  { "What protects the head on a bicycle?", "a helmet", { "a scarf", "a belt", "a bell", "a basket" } },
  { "What protects the eyes from bright sun?", "sunglasses", { "gloves", "earplugs", "a belt", "wool socks" } },
  { "What should be worn in a car?", "a seat belt", { "a life jacket", "skates", "a crown", "a backpack" } },
  { "Which drink has no sugar in it?", "plain water", { "lemonade", "sweet tea", "apple juice", "hot chocolate" } },
  { "What do teeth need every day?", "brushing", { "painting", "salting", "freezing", "sanding" } },
  { "How many fingers does a hand usually have, thumb included?", "five", { "three", "seven", "nine", "twelve" } },
  { "Which sense uses the nose?", "smell", { "sight", "hearing", "touch", "balance" } },
  { "Which sense uses the tongue?", "taste", { "sight", "hearing", "smell", "balance" } },
  { "What helps most against being thirsty?", "drinking water", { "eating salt", "running fast", "wearing wool", "reading aloud" } },
  { "What is a good thing to do after a long day awake?", "sleep", { "skip the night", "stare at a lamp", "shout", "stand on one leg" } },
  { "What should one do at a red traffic light?", "stop and wait", { "run across", "close the eyes", "sing", "walk faster" } },
  { "Which of these is worn on a cold day?", "a warm coat", { "a swimsuit", "sandals", "a sun hat", "a paper crown" } },
  { "What do muscles do?", "they move the body", { "they see colors", "they grow hair", "they taste food", "they hear sounds" } },
  { "What do bones give the body?", "support", { "color", "sound", "smell", "sugar" } },
  { "Where does food go after it is swallowed?", "into the stomach", { "into the lungs", "into the ears", "into the knees", "into the hair" } },
  { "What covers the outside of the body?", "skin", { "bone", "lungs", "teeth", "muscle" } },
  { "Which exercise is done in water?", "swimming", { "cycling", "hiking", "rowing on land", "skipping" } },
  { "Which of these is a calm activity?", "reading", { "sprinting", "boxing", "wrestling", "jumping" } },
  { "What should be done with a hot pan?", "hold it with a cloth", { "grip it with bare hands", "put it on a child's chair", "set it on paper",
    "leave it at the edge" } },
  { "How often do most adults sleep?", "once a night", { "once a month", "once a year", "never", "once a week" } },
  { "What shows how warm a room is?", "a thermometer", { "a ruler", "a scale", "a clock", "a compass" } },
  { "What shows how heavy a bag is?", "a scale", { "a thermometer", "a clock", "a compass", "a ruler" } },
  { "What shows how long a walk took?", "a watch", { "a scale", "a thermometer", "a mirror", "a spoon" } },
  { "What is kept in a first-aid box?", "bandages", { "nails", "paint", "postcards", "string lights" } },
  { "Which number can be called for help in much of Europe?", "112", { "000000", "1", "55", "98765" } },
  { "What should one do when a room fills with smoke?", "leave it", { "take a nap", "light a candle", "close the door from inside", "cook a meal" } },
  { "Which food is a fruit?", "a pear", { "a loaf", "a potato", "an egg", "a cheese" } },
  { "Which food is a grain?", "rice", { "milk", "a plum", "honey", "butter" } },
  { "Which food is made from milk?", "cheese", { "bread", "jam", "rice", "olives" } },
}
local forms = { "%s", "Choose the right answer. %s", "Think of daily life. %s", "%s Only one answer is right." }
local health = {}
for round = 1, 4 do
  for i, fact in ipairs(daily) do
    local four, at = options(fact[2], fact[3])
    health[#health + 1] = {
      keys = { "Questions", "Answers" },
      Questions = ("%s\nA) %s\nB) %s\nC) %s\nD) %s"):format(forms[(i + round) % 4 + 1]:format(fact[1]), four[1], four[2], four[3], four[4]),
      Answers = letters[at],
    }
  end
end
write("health_benchmarks.jsonl", shuffled(health))

-- MedMCQA's columns: which of four things belongs to a kind. Things are in one kind only.
local kinds = {
  { "Botany", "a tree", { "oak", "birch", "maple", "willow", "beech", "pine" } },
  { "Botany", "a flower", { "tulip", "daisy", "rose", "violet", "lily", "poppy" } },
  { "Botany", "a vegetable", { "carrot", "spinach", "leek", "cabbage", "turnip", "broccoli" } },
  { "Botany", "a fruit", { "apple", "banana", "cherry", "mango", "grape", "peach" } },
  { "Zoology", "a bird", { "sparrow", "owl", "robin", "eagle", "swan", "magpie" } },
  { "Zoology", "a fish", { "salmon", "trout", "herring", "carp", "tuna", "cod" } },
  { "Zoology", "an insect", { "bee", "ant", "beetle", "moth", "wasp", "cricket" } },
  { "Zoology", "a mammal", { "horse", "whale", "mouse", "rabbit", "dog", "goat" } },
  { "Physics", "a unit of length", { "meter", "inch", "mile", "kilometer", "foot", "yard" } },
  { "Physics", "a unit of time", { "hour", "minute", "second", "day", "week", "year" } },
  { "Chemistry", "a metal", { "iron", "copper", "silver", "zinc", "tin", "lead" } },
  { "Kitchen", "a tool for cooking", { "pan", "ladle", "whisk", "grater", "kettle", "sieve" } },
  { "Geography", "a country", { "Italy", "Japan", "Kenya", "Peru", "Norway", "Canada" } },
  { "Music", "an instrument", { "piano", "violin", "trumpet", "flute", "harp", "cello" } },
}
local ask = { "Which of these is %s?", "Only one of the following is %s. Which one?", "Find the word that names %s.", "One word names %s: which?" }
local medmcqa = {}
for i = 1, 140 do
  local k = (i - 1) % #kinds + 1
  local kind = kinds[k]
  local right = kind[3][(math.floor((i - 1) / #kinds)) % #kind[3] + 1]
  local wrong, used = {}, { [k] = true }
  while #wrong < 3 do
    local other = random(#kinds)
    if not used[other] then
      used[other] = true
      wrong[#wrong + 1] = any(kinds[other][3])
    end
  end
  local four, at = options(right, wrong)
  medmcqa[i] = {
    keys = { "question", "exp", "cop", "opa", "opb", "opc", "opd", "subject_name", "topic_name", "id", "choice_type" },
    question = ask[(i + math.floor(i / #kinds)) % #ask + 1]:format(kind[2]),
    exp = ("%s is %s."):format(right:sub(1, 1):upper() .. right:sub(2), kind[2]),
    cop = at, opa = four[1], opb = four[2], opc = four[3], opd = four[4], subject_name = kind[1], topic_name = "Everyday words",
    id = ("made-%03d"):format(i), choice_type = "single",
  }
end
write("medmcqa.jsonl", shuffled(medmcqa))
