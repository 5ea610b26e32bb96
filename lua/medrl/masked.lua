--- Strings that remember who wrote each byte. A Lua string is markup: a constant of the template. Text from messages is
--- { k = "str", s = bytes, m = mask } with one "0" (data) or "1" (markup) a byte. What is cut, joined or replaced keeps
--- its bytes' marks, so no order of operations makes markup of data. Indices are those of Python: code points.
local re = require "medrl.re"
local text = require "medrl.text"

local M = {}

M.limit = 1048576 -- bytes of one string: that of a rendered prompt

local function fail(message, ...)
  error(message:format(...), 0)
end

--- Bytes and mask; a mask of nil means that all is markup. Nothing for what is no string.
local function bytes(x)
  if type(x) == "string" then return x end
  if type(x) == "table" and x.k == "str" then return x.s, x.m end
end
M.bytes = bytes

function M.is(x)
  return type(x) == "string" or (type(x) == "table" and x.k == "str")
end

local function make(s, m)
  if s == "" or not m then return s end
  return { k = "str", s = s, m = m }
end
M.make = make

function M.data(s)
  return make(s, ("0"):rep(#s))
end

--- The strings of list[1..n] as one.
function M.concat(list, n)
  local parts, masks, marked, size = {}, {}, false, 0
  for i = 1, n do
    local s, m = bytes(list[i])
    parts[i] = s
    masks[i] = m or false
    marked = marked or m ~= nil
    size = size + #s
    if size > M.limit then fail("a text has more than %d bytes", M.limit) end
  end
  if not marked then return table.concat(parts, "", 1, n) end
  for i = 1, n do masks[i] = masks[i] or ("1"):rep(#parts[i]) end
  return make(table.concat(parts, "", 1, n), table.concat(masks, "", 1, n))
end

--- Bytes i to j.
local function sub(x, i, j)
  local s, m = bytes(x)
  return make(s:sub(i, j), m and m:sub(i, j))
end
M.sub = sub

--- Where the character behind byte i begins; i is where one begins.
local function next_at(s, i)
  local c = s:byte(i)
  return i + (c < 0x80 and 1 or c < 0xE0 and 2 or c < 0xF0 and 3 or 4)
end

local function is_ascii(s)
  return not s:find("[\128-\255]")
end

--- Where each character begins, and the byte behind the last.
local function starts(s)
  local list, n, i = {}, 0, 1
  while i <= #s do
    n = n + 1
    list[n] = i
    i = next_at(s, i)
  end
  list[n + 1] = #s + 1
  return list, n
end
M.starts = starts

function M.len(x)
  local s = bytes(x)
  return is_ascii(s) and #s or text.ulen(s)
end

--- The characters as a list of strings.
function M.chars(x)
  local at, n = starts((bytes(x)))
  local list = {}
  for i = 1, n do list[i] = sub(x, at[i], at[i + 1] - 1) end
  return list, n
end

--- Characters from..to of Python's range(from, to, step), as a string.
function M.slice(x, from, to, step)
  local s = bytes(x)
  if step == 1 then
    if from >= to then return "" end
    if is_ascii(s) then return sub(x, from + 1, to) end
    local at = starts(s)
    return sub(x, at[from + 1], at[to + 1] - 1)
  end
  local at = starts(s)
  local list, n = {}, 0
  for i = from, to + (step > 0 and -1 or 1), step do
    n = n + 1
    list[n] = sub(x, at[i + 1], at[i + 2] - 1)
  end
  return M.concat(list, n)
end

local function code(c)
  local a, b, d, e = c:byte(1, 4)
  if a < 0x80 then return a end
  if a < 0xE0 then return (a - 0xC0) * 64 + b - 128 end
  if a < 0xF0 then return ((a - 0xE0) * 64 + b - 128) * 64 + d - 128 end
  return (((a - 0xF0) * 64 + b - 128) * 64 + d - 128) * 64 + e - 128
end
M.code = code

-- White space as str.isspace has it.

local wide = {}
for _, c in ipairs { "\194\133", "\194\160", "\225\154\128", "\226\128\168", "\226\128\169", "\226\128\175",
                     "\226\129\159", "\227\128\128" } do wide[c] = true end
for i = 128, 138 do wide["\226\128" .. string.char(i)] = true end

local function is_space(c)
  local b = c:byte()
  return (b >= 9 and b <= 13) or (b >= 28 and b <= 32) or wide[c] == true
end
M.is_space = is_space

local function char_before(s, i)
  local from = i
  while from > 1 and s:byte(from) >= 0x80 and s:byte(from) < 0xC0 do from = from - 1 end
  return from
end

--- str.strip, lstrip, rstrip; chars: a string of what goes, nil for white space.
function M.strip(x, chars, left, right)
  local s = bytes(x)
  local drop = is_space
  if chars then
    local set = {}
    local list, n = M.chars((bytes(chars)))
    for i = 1, n do set[list[i]] = true end
    drop = function(c) return set[c] end
  end
  local from, to = 1, #s
  while left and from <= to do
    local nxt = next_at(s, from)
    if not drop(s:sub(from, nxt - 1)) then break end
    from = nxt
  end
  while right and to >= from do
    local at = char_before(s, to)
    if not drop(s:sub(at, to)) then break end
    to = at - 1
  end
  return sub(x, from, to)
end

--- str.split at white space: max splits at most, -1 for all.
local function split_space(x, max)
  local s = bytes(x)
  local list, n, i = {}, 0, 1
  while true do
    while i <= #s and is_space(s:sub(i, next_at(s, i) - 1)) do i = next_at(s, i) end
    if i > #s then break end
    n = n + 1
    if max >= 0 and n > max then
      list[n] = M.strip(sub(x, i, #s), nil, false, true)
      break
    end
    local from = i
    while i <= #s and not is_space(s:sub(i, next_at(s, i) - 1)) do i = next_at(s, i) end
    list[n] = sub(x, from, i - 1)
  end
  return list, n
end

function M.split(x, sep, max)
  max = max or -1
  if not sep then return split_space(x, max) end
  local s, mark = bytes(x), bytes(sep)
  if mark == "" then fail("split: the separator is empty") end
  local list, n, from = {}, 0, 1
  while max < 0 or n < max do
    local at = s:find(mark, from, true)
    if not at then break end
    n = n + 1
    list[n] = sub(x, from, at - 1)
    from = at + #mark
  end
  list[n + 1] = sub(x, from, #s)
  return list, n + 1
end

--- The last occurrence: its first byte.
function M.find_last(x, part, limit)
  local s, mark = bytes(x), bytes(part)
  for at = (limit or #s) - #mark + 1, 1, -1 do
    if s:sub(at, at + #mark - 1) == mark then return at end
  end
end

function M.rsplit(x, sep, max)
  if not max or max < 0 then return M.split(x, sep, -1) end
  if not sep then fail("rsplit: with a number of splits it wants a separator") end
  local s, mark = bytes(x), bytes(sep)
  if mark == "" then fail("rsplit: the separator is empty") end
  local backwards, n, to = {}, 0, #s
  while n < max do
    local at = M.find_last(x, sep, to)
    if not at then break end
    n = n + 1
    backwards[n] = sub(x, at + #mark, to)
    to = at - 1
  end
  n = n + 1
  backwards[n] = sub(x, 1, to)
  local list = {}
  for i = 1, n do list[i] = backwards[n + 1 - i] end
  return list, n
end

--- str.splitlines: all that Python takes for the end of a line.
function M.splitlines(x)
  local s = bytes(x)
  local list, n, from, i = {}, 0, 1, 1
  while i <= #s do
    local after = next_at(s, i)
    local c = s:sub(i, after - 1)
    local b = c:byte()
    if (b >= 10 and b <= 13) or (b >= 28 and b <= 30) or c == "\194\133" or c == "\226\128\168" or c == "\226\128\169"
    then
      if c == "\r" and s:sub(after, after) == "\n" then after = after + 1 end
      n = n + 1
      list[n] = sub(x, from, i - 1)
      from = after
    end
    i = after
  end
  if from <= #s then
    n = n + 1
    list[n] = sub(x, from, #s)
  end
  return list, n
end

--- str.replace; count: at most so many, -1 for all.
function M.replace(x, old, new, count)
  local s, mark = bytes(x), bytes(old)
  local parts, n, from, done = {}, 0, 1, 0
  if mark == "" then -- between all characters
    local at, len = starts(s)
    for i = 1, len + 1 do
      if count < 0 or done < count then
        n, done = n + 1, done + 1
        parts[n] = new
      end
      if i <= len then
        n = n + 1
        parts[n] = sub(x, at[i], at[i + 1] - 1)
      end
    end
    return M.concat(parts, n)
  end
  while count < 0 or done < count do
    local at = s:find(mark, from, true)
    if not at then break end
    parts[n + 1], parts[n + 2] = sub(x, from, at - 1), new
    n, from, done = n + 2, at + #mark, done + 1
  end
  parts[n + 1] = sub(x, from, #s)
  return M.concat(parts, n + 1)
end

--- Each character c of x becomes f(c, its number); its marks go to all bytes that it becomes.
function M.map(x, f)
  local s, m = bytes(x)
  local at, n = starts(s)
  local parts, masks = {}, {}
  for i = 1, n do
    local got = f(s:sub(at[i], at[i + 1] - 1), i)
    parts[i] = got
    if m then masks[i] = m:sub(at[i], at[i]):rep(#got) end
  end
  return make(table.concat(parts), m and table.concat(masks))
end

-- Case. What the simple mapping of one character to one gets wrong is refused.

local function no_simple_case(c)
  local u = code(c)
  return u == 0xDF or u == 0x130 or u == 0x149 or u == 0x1F0 or u == 0x390 or u == 0x3A3 or u == 0x3B0 or u == 0x587
    or (u >= 0x1C4 and u <= 0x1CC) or (u >= 0x1F1 and u <= 0x1F3) or (u >= 0x1E96 and u <= 0x1E9E)
    or (u >= 0x1F50 and u <= 0x1FFF) or (u >= 0xFB00 and u <= 0xFB17)
end

local function mapped(c, up)
  if #c == 1 then return up and c:upper() or c:lower() end
  if no_simple_case(c) then fail("the case of \"%s\" is not a matter of one character; write the text as wanted", c) end
  return up and text.upper(c) or text.lower(c)
end

function M.upper(x)
  local s, m = bytes(x)
  if is_ascii(s) then return make(s:upper(), m) end
  return M.map(x, function(c) return mapped(c, true) end)
end

function M.lower(x)
  local s, m = bytes(x)
  if is_ascii(s) then return make(s:lower(), m) end
  return M.map(x, function(c) return mapped(c, false) end)
end

function M.capitalize(x)
  return M.map(x, function(c, i) return mapped(c, i == 1) end)
end

local function is_cased(c)
  return text.lower(c) ~= c or text.upper(c) ~= c
end

--- str.title: a letter behind one that has a case is small, others are large.
function M.title(x)
  local inside = false
  return M.map(x, function(c)
    local got = mapped(c, not inside)
    inside = is_cased(c)
    return got
  end)
end

--- Jinja's title filter: words begin behind white space and - ( { [ <.
function M.title_words(x)
  local start = true
  return M.map(x, function(c)
    local between = is_space(c) or (c:find("[%-%({%[<]") ~= nil)
    local got = between and c or mapped(c, start)
    start = between
    return got
  end)
end

--- str.isupper, islower.
function M.has_case(x, up)
  local list, n = M.chars((bytes(x)))
  local any = false
  for i = 1, n do
    local c = list[i]
    if is_cased(c) then
      if (up and text.upper(c) or text.lower(c)) ~= c then return false end
      any = true
    end
  end
  return any
end

-- Quoting.

local not_printable = re.compile("[\\p{C}\\p{Z}]")
local python_escapes = { ["\n"] = "\\n", ["\r"] = "\\r", ["\t"] = "\\t", ["\\"] = "\\\\" }

local function as_data(s)
  return M.data(s)
end

--- repr of a str.
function M.repr(x)
  local s = bytes(x)
  local quote = s:find("'", 1, true) and not s:find('"', 1, true) and '"' or "'"
  local body = M.map(x, function(c)
    if c == quote then return "\\" .. c end
    local b = c:byte()
    if python_escapes[c] then return python_escapes[c] end
    if b < 32 or b == 127 then return ("\\x%02x"):format(b) end
    if b < 128 or not not_printable:test(c) then return c end
    local u = code(c)
    return (u < 256 and "\\x%02x" or u < 65536 and "\\u%04x" or "\\U%08x"):format(u)
  end)
  return M.concat({ as_data(quote), body, as_data(quote) }, 3)
end

local json_escapes = { ["\n"] = "\\n", ["\r"] = "\\r", ["\t"] = "\\t", ["\\"] = "\\\\", ['"'] = '\\"', ["\b"] = "\\b",
                       ["\f"] = "\\f" }

--- json.dumps of a str.
function M.json(x, ensure_ascii)
  local s = bytes(x)
  local body = x
  if s:find('[%c"\\]') or (ensure_ascii and not is_ascii(s)) then
    body = M.map(x, function(c)
      local b = c:byte()
      if json_escapes[c] then return json_escapes[c] end
      if b < 32 then return ("\\u%04x"):format(b) end
      if b < 128 and not (ensure_ascii and b == 127) or not ensure_ascii then return c end
      local u = code(c)
      if u < 65536 then return ("\\u%04x"):format(u) end
      u = u - 65536
      return ("\\u%04x\\u%04x"):format(0xD800 + math.floor(u / 1024), 0xDC00 + u % 1024)
    end)
  end
  return M.concat({ as_data('"'), body, as_data('"') }, 3)
end

local html = { ["&"] = "&amp;", ["<"] = "&lt;", [">"] = "&gt;", ["'"] = "&#39;", ['"'] = "&#34;" }

--- What "+" does to the other side of a |safe value.
function M.escape(x)
  return M.map(x, function(c) return html[c] or c end)
end

return M
