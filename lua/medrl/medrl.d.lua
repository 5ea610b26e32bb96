---@meta
--- Annotations for editors (LuaLS): what `require "medrl.…"` gives to recipes, data sets and rewards.
--- Scripts have Lua's own assert, error, ipairs, next, pairs, pcall, print (to the log), rawequal, rawget, rawset,
--- require, select, setmetatable, getmetatable, tonumber, tostring, type, unpack, xpcall and the libraries string,
--- table, math (without random) and bit.

---@class medrl.Message
---@field role "system"|"user"|"assistant"
---@field content string

---@class medrl.Row
---@field messages medrl.Message[]
---@field answer string?
---@field db_set string? which kind of question it is: gsm8k, pubmedqa, med_mc
---@field source string? the data set's name; set by data.get

---@class medrl.Info
---@field n_tokens integer
---@field truncated boolean the completion hit max_completion_length
---@field prompt string the prompt as the model saw it, with its template
---@field step integer
---@field options table the reward's own options, with the recipe's values

---@class medrl.Reward
---@field name string the file's name
---@field range number[]? lowest and highest value; another value is a fault
---@field options table? option names and their defaults
---@field score fun(completion: string, row: medrl.Row, info: medrl.Info): number?
---@field cases table[]? { completion, row, score [, options = {}] }

---@class medrl.DatasetModule
---@field name string
---@field columns string[][]? { { "question", "string" }, … }: what a raw row has to have
---@field load nil|fun(options: table): { n: integer, get: fun(i: integer): table } for rows that are made, not read
---@field keep nil|fun(raw: table, options: table): boolean, string? false, "why": the row is filtered
---@field row fun(raw: table, options: table): medrl.Row?, string? nil, "why": the row is skipped
---@field cases table[]? { raw, row [, options = {}] }

---@class medrl.Split
---@field test_size number below 1 a share, else a number of rows
---@field seed integer

---@class medrl.Parts
---@field train medrl.Set
---@field test medrl.Set

---@class medrl.Set
---@field shuffle fun(self: medrl.Set, seed: integer): medrl.Set
---@field take fun(self: medrl.Set, n: integer): medrl.Set
---@field skip fun(self: medrl.Set, n: integer): medrl.Set
---@field select fun(self: medrl.Set, places: integer[]): medrl.Set places count from 1
---@field filter fun(self: medrl.Set, f: fun(row: medrl.Row, place: integer): boolean, string?): medrl.Set
---@field map fun(self: medrl.Set, f: fun(row: medrl.Row, place: integer): table, options: medrl.MapOptions?): medrl.Set
---@field rename fun(self: medrl.Set, old: string, new: string): medrl.Set
---@field rename_column fun(self: medrl.Set, old: string, new: string): medrl.Set the same as rename
---@field remove_columns fun(self: medrl.Set, columns: string|string[]): medrl.Set
---@field split fun(self: medrl.Set, options: medrl.Split): medrl.Parts
---@field train_test_split fun(self: medrl.Set, options: medrl.Split): medrl.Parts the same as split

---@class medrl.MapOptions
---@field remove_columns string|string[]?

---@class medrl.InterleaveOptions
---@field probabilities number[]? one for each set; they sum to 1 and need a seed
---@field seed integer?
---@field stopping_strategy nil|"first_exhausted"|"all_exhausted"|"all_exhausted_without_replacement"

---@class medrl.data
---@field get fun(name: string, options: table?): medrl.Set
---@field from_list fun(rows: medrl.Row[]): medrl.Set
---@field concatenate fun(list: medrl.Set[]): medrl.Set
---@field concatenate_datasets fun(list: medrl.Set[]): medrl.Set the same as concatenate
---@field interleave fun(list: table, options: medrl.InterleaveOptions?): medrl.Set options may stand in the list too
---@field interleave_datasets fun(list: table, options: medrl.InterleaveOptions?): medrl.Set the same as interleave

---@class medrl.Regex
---@field test fun(self: medrl.Regex, s: string): boolean, string?
---@field match fun(self: medrl.Regex, s: string): string?, ... at the start only
---@field find fun(self: medrl.Regex, s: string, init: integer?): integer?, integer?, ...
---@field gmatch fun(self: medrl.Regex, s: string): fun(): string?, ...
---@field gsub fun(self: medrl.Regex, s: string, repl: string|function): string, integer

---@class medrl.re
---@field compile fun(pattern: string, flags: string?): medrl.Regex
---@field space string a class with Python's white space

---@class medrl.text
---@field strip fun(s: string): string
---@field lower fun(s: string): string
---@field count fun(s: string, part: string): integer
---@field contains fun(s: string, part: string): boolean
---@field after_last fun(s: string, mark: string): string
---@field before_first fun(s: string, mark: string): string
---@field last_between fun(s: string, open: string, close: string): string?
---@field ulen fun(s: string): integer
---@field is_digit fun(s: string): boolean

---@class medrl.json
---@field encode fun(value: any): string
---@field decode fun(s: string, options: { null: boolean }?): any
---@field array fun(t: table?): table
---@field is_array fun(t: any): boolean
---@field null lightuserdata

---@class medrl.rng
---@field uniform fun(seed: integer, i: integer, stream: integer?): number
---@field pcg64 fun(seed: integer): { double: fun(self): number, permutation: fun(self, n: integer): integer[] }

---@class medrl.log
---@field info fun(line: string)
---@field warn fun(line: string)
---@field debug fun(line: string)
