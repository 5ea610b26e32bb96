--- Which files of a folder, or of a repository of the hub, hold the rows of a data set: by their names alone, as the
--- hub's own layouts have them (no card is read):
---   CONFIG/SPLIT-00000-of-00002.parquet    several configurations (gsm8k, PubMedQA)
---   data/PART-00000-of-00001.parquet       one configuration, a split for each part (Health_Benchmarks once)
---   PART/PART-00000-of-00001.parquet       a configuration for each part (Health_Benchmarks now)
---   CONFIG/SPLIT/0000.parquet              what the hub itself converts
--- and a folder with the files of one configuration, or JSONL and CSV files of such names, packed or not.
local M = {}

-- Where the same rows are there in several kinds, the first of these.
local kinds = { "parquet", "jsonl", "ndjson", "json", "csv", "tsv" }
local rank = {}
for i, kind in ipairs(kinds) do rank[kind] = i end

-- "main/train-00000-of-00001.jsonl.gz": { "main" }, "train-00000-of-00001", 2
local function take_apart(name)
  local folders = {}
  for folder in name:gmatch("([^/]+)/") do folders[#folders + 1] = folder end
  local stem, kind = name:match("[^/]+$"):gsub("%.gz$", ""):gsub("%.zst$", ""):match("^(.*)%.(%w+)$")
  return folders, stem or "", rank[kind or ""]
end

local function has(list, x)
  for _, y in ipairs(list) do
    if y == x then return true end
  end
  return false
end

-- A file of the split or part: train.csv, train-00000-of-00001.parquet, train/0000.parquet.
local function is_of(part, folders, stem)
  return stem == part or stem:sub(1, #part + 1) == part .. "-"
    or folders[#folders] == part and (stem:match("^%d+$") ~= nil)
end

-- Those of the best kind, in the order of their names. Two folders hold the same rows twice: the first one's.
local function best(found)
  table.sort(found, function(a, b)
    if a.rank ~= b.rank then return a.rank < b.rank end
    return a.name < b.name
  end)
  local names = {}
  for _, f in ipairs(found) do
    local same = f.rank == found[1].rank and table.concat(f.folders, "/") == table.concat(found[1].folders, "/")
    if same then names[#names + 1] = f.name end
  end
  return names
end

local function find(files, part, config)
  local found, plain = {}, {}
  for _, f in ipairs(files) do
    if is_of(part, f.folders, f.stem) then
      if not config or has(f.folders, config) then found[#found + 1] = f end
      local last = f.folders[#f.folders]
      if #f.folders <= 1 and (last == nil or last == "data" or last == part) then plain[#plain + 1] = f end
    end
  end
  return best(#found > 0 and found or plain) -- a folder that is the configuration
end

--- names: what is there. want: split and config, or parts, a list. Gives the names to read, in order; or nil and what
--- is not there.
function M.pick(names, want)
  local files = {}
  for _, name in ipairs(names) do
    local folders, stem, kind = take_apart(name)
    if kind then files[#files + 1] = { name = name, folders = folders, stem = stem, rank = kind } end
  end
  if not want.parts then
    local found = find(files, want.split, want.config)
    if #found == 0 and #files == 1 then return { files[1].name } end
    if #found > 0 then return found end
    return nil, ("no file of split \"%s\"%s"):format(want.split,
      want.config and (" of \"%s\""):format(want.config) or "")
  end
  local all, missing = {}, {}
  for _, part in ipairs(want.parts) do
    local found = find(files, part)
    if #found == 0 then missing[#missing + 1] = part end
    for _, name in ipairs(found) do all[#all + 1] = name end
  end
  if #missing == 0 then return all end
  local shown = table.concat(missing, ", ", 1, math.min(#missing, 5)) .. (#missing > 5 and ", ..." or "")
  return nil, ("no file of %d of the %d parts (%s)"):format(#missing, #want.parts, shown)
end

return M
