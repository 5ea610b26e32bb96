--- The answer of a completion, and whether it is the right one: tags, \boxed{}, numbers. For rewards.
---
--- Understood as a number: 42, -4.5, .5, 1,200 (also 1{,}200), 3/4, \frac{3}{4}, \frac34, 1 1/2, 1e3,
--- 2.5 \times 10^{3}, 50% (equal to 0.5 and to 50), with a currency sign or "x =" in front, a \text{unit} or degrees
--- behind, a final full stop, parentheses, $...$ or \(...\) around. Not understood: sums and other arithmetic, roots,
--- pi, intervals, sets, algebra (these are compared as text), digits of other scripts, numbers in words.
local text = require "medrl.text"

local M = {}

-- Texts that are said more often than this are a loop and not an answer.
local MAX_SAID = 3
-- What is longer is no answer; and no pattern below sees more than this.
local MAX_BYTES = 400

--- The text of the only <answer> block, trimmed. nil: there is none, or more than one, it is not closed, or it stands
--- inside the reasoning.
function M.tagged(completion)
  if text.count(completion, "<answer>") ~= 1 or text.count(completion, "</answer>") ~= 1 then return nil end
  local said = text.last_between(completion, "<answer>", "</answer>")
  if not said then return nil end
  local rest = text.after_last(completion, "</answer>")
  if text.contains(rest, "</think>") or text.contains(rest, "</reasoning>") then return nil end
  return said
end

--- What the \boxed{...} of a text hold, in order; braces inside are balanced.
function M.boxed(completion)
  local found, at = {}, 1
  while #found <= MAX_SAID do
    local _, open = completion:find("\\boxed{", at, true)
    if not open then break end
    local depth, stop = 1, nil
    for i = open + 1, math.min(#completion, open + MAX_BYTES) do
      local c = completion:byte(i)
      if c == 123 then depth = depth + 1 elseif c == 125 then depth = depth - 1 end
      if depth == 0 then
        stop = i
        break
      end
    end
    if not stop then return {} end -- a box that is not closed
    found[#found + 1] = text.strip(completion:sub(open + 1, stop - 1))
    at = stop + 1
  end
  return found
end

-- LaTeX that says nothing about the value.
local noise = { "\\left", "\\right", "\\!", "\\,", "\\;", "\\:", "\\ ", "\\displaystyle", "\\$", "$", "**",
                "\\(", "\\)", "\\[", "\\]" }

local function without(s, part)
  local from, to = s:find(part, 1, true)
  while from do
    s = s:sub(1, from - 1) .. s:sub(to + 1)
    from, to = s:find(part, from, true)
  end
  return s
end

--- A text in the form in which answers are compared: lower case, no white space, no LaTeX layout, no \text{unit} at the
--- end, no final full stop.
function M.normal(s)
  s = s:sub(1, MAX_BYTES)
  s = s:gsub("−", "-"):gsub("{,}", ",")
  for _, part in ipairs(noise) do s = without(s, part) end
  s = s:gsub("\\[dt]frac", "\\frac"):gsub("\\frac(%d)(%d)", "\\frac{%1}{%2}"):gsub("\\%%", "%%")
  s = s:gsub("([%d}])%s*\\text%s*{[^{}]*}%s*$", "%1"):gsub("\\text%s*{([^{}]*)}", "%1")
  s = s:gsub("\\mathrm%s*{([^{}]*)}", "%1"):gsub("\\mathbf%s*{([^{}]*)}", "%1")
  s = s:gsub("\\times", "×"):gsub("\\cdot", "×"):gsub("%^%s*{?%s*\\circ%s*}?%s*$", "")
  s = text.lower(text.strip(s))
  s = s:gsub("(%d)%s+(%d+/%d+)", "%1+%2"):gsub("^(%-?%d+)(\\frac)", "%1+%2") -- mixed numbers, before blanks go
  -- blanks go, but not between words or digits: "4 2" is not 42
  s = s:gsub("%s+", " "):gsub("(%w) (%f[%w])", "%1\1%2"):gsub(" ", ""):gsub("\1", " "):gsub("%.$", "")
  return s
end

local function finite(x)
  return x and x == x and x < math.huge and x > -math.huge and x or nil
end

-- 42, 1,200.5, .5, 1e3: the whole of s; nil for what tonumber would take beyond that (0x10, nan, inf).
local function plain_number(s)
  if s:match("^[+-]?%d%d?%d?,%d%d%d[%d,%.]*$") then
    local whole, rest = s:match("^([+-]?[%d,]+)(.*)$")
    for group in whole:gmatch(",(%d*)") do
      if #group ~= 3 then return nil end
    end
    s = whole:gsub(",", "") .. rest
  end
  if s:match("^[+-]?%d+%.?%d*$") or s:match("^[+-]?%.%d+$") or s:match("^[+-]?%d+%.?%d*e[+-]?%d+$") then
    return finite(tonumber((s:gsub("^%+", ""))))
  end
  return nil
end

local function quotient(sign, a, b)
  a, b = plain_number(a), plain_number(b)
  if not a or not b or b == 0 then return nil end
  return finite((sign == "-" and -1 or 1) * a / b)
end

-- A number in normal form, without a percent sign.
local function value_of(s)
  local x = plain_number(s)
  if x then return x end
  local sign, a, b = s:match("^([+-]?)\\frac{([^{}]+)}{([^{}]+)}$")
  if a then return quotient(sign, a, b) end
  sign, a, b = s:match("^([+-]?)([%d%.,]+)/([%d%.,]+)$")
  if a then return quotient(sign, a, b) end
  local whole, part = s:match("^(%-?%d+)%+(.+)$")
  if whole then
    part = value_of(part)
    return part and part >= 0 and part < 1 and finite(whole:sub(1, 1) == "-" and whole - part or whole + part) or nil
  end
  a, b = s:match("^([+-]?[%d%.]+)×10%^{?([+-]?%d+)}?$")
  if a then
    a = plain_number(a)
    return a and finite(a * 10 ^ tonumber(b)) or nil
  end
  return nil
end

--- The number that the whole of s is, and whether it had a percent sign (the number is without it: 50% gives 50, true).
--- nil: it is not a number.
function M.number(s)
  if #s > MAX_BYTES then return nil end
  s = M.normal(s):gsub("^€", ""):gsub("^£", ""):gsub("^%a=", ""):gsub("^%(([^%(%),]+)%)$", "%1")
  local bare, percent = s:gsub("%%$", "")
  local x = value_of(bare)
  if not x then return nil end
  return x, percent == 1
end

--- The last number in a text, as digits are written (no fractions), with its thousands separators and sign. nil: none.
function M.last_number(s)
  s = s:sub(-20000) -- the end of a text has its answer
  local last
  for sign, digits in s:gmatch("([+-]?)([%d][%d,%.]*)") do
    digits = digits:gsub("[%.,]+$", "")
    local x = plain_number(digits)
    if x then last = sign == "-" and -x or x end
  end
  return last
end

--- Whether two numbers are the same but for rounding in a double.
function M.near(a, b)
  return math.abs(a - b) <= 1e-9 * math.max(1, math.abs(a), math.abs(b))
end

--- Whether two answers say the same: as numbers, otherwise as text in normal form.
function M.equal(said, gold)
  local a, a_percent = M.number(said)
  local b, b_percent = M.number(gold)
  if a and b then
    if M.near(a, b) then return true end
    if a_percent and not b_percent then return M.near(a / 100, b) end
    if b_percent and not a_percent then return M.near(a, b / 100) end
    return false
  end
  local x = M.normal(said)
  return #said <= MAX_BYTES and x ~= "" and x == M.normal(gold)
end

-- What stands behind "the answer is" (or "answer:"), to the end of its sentence; nil when it is not said, or too often.
local function announced(completion)
  local lower, at, last, n = completion:lower(), 1, nil, 0
  while true do
    local from, to = lower:find("answer%s*:", at)
    local from2, to2 = lower:find("answer is", at, true)
    if from2 and (not from or from2 < from) then to = to2 end
    if not to then break end
    n = n + 1
    if n > MAX_SAID then return nil end
    last, at = to, to + 1
  end
  if not last then return nil end
  local rest = completion:sub(last + 1, last + MAX_BYTES):match("^[%s:]*([^\n]*)")
  rest = rest:gsub("%.%s.*$", ""):gsub("[%.%s]*$", "")
  return rest ~= "" and text.strip(rest) or nil
end

--- The final answer of a completion: what its \boxed{} holds; else its <answer> block; else what follows "the answer
--- is" or "answer:". nil: it has none, or several that differ, or says it more than three times.
function M.final(completion)
  if text.contains(completion, "\\boxed{") then
    local found = M.boxed(completion)
    if #found == 0 or #found > MAX_SAID then return nil end
    for i = 2, #found do
      if not M.equal(found[i], found[1]) then return nil end
    end
    return found[1]
  end
  if text.contains(completion, "<answer>") then return M.tagged(completion) end
  return announced(completion)
end

--- The gold answer of a row: the column asked for, or TRL's `solution`; nil when there is none that could be compared.
function M.gold(row, column)
  local gold = row[column]
  if gold == nil then gold = row.solution end
  if type(gold) == "number" then gold = ("%.17g"):format(gold) end
  if type(gold) ~= "string" or text.strip(gold) == "" then return nil end
  if text.contains(gold, "\\boxed{") then return M.boxed(gold)[1] end
  if text.contains(gold, "####") then return text.strip(text.after_last(gold, "####")) end
  return gold
end

--- Whether the completion's final answer is the row's. nil: the row has no gold answer.
function M.correct(completion, row, column)
  local gold = M.gold(row, column)
  if not gold then return nil end
  local said = M.final(completion)
  return said ~= nil and M.equal(said, gold)
end

return M
