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
---@field keep nil|fun(raw: table, options: table): boolean
---@field row fun(raw: table, options: table): medrl.Row?
---@field cases table[]? { raw, row [, options = {}] }

---@class medrl.Split
---@field test_size number
---@field seed integer

---@class medrl.Set
---@field shuffle fun(self: medrl.Set, seed: integer): medrl.Set
---@field take fun(self: medrl.Set, n: integer): medrl.Set
---@field skip fun(self: medrl.Set, n: integer): medrl.Set
---@field select fun(self: medrl.Set, places: integer[]): medrl.Set
---@field filter fun(self: medrl.Set, f: fun(row: medrl.Row): boolean): medrl.Set
---@field map fun(self: medrl.Set, f: fun(row: medrl.Row): medrl.Row): medrl.Set
---@field rename fun(self: medrl.Set, old: string, new: string): medrl.Set
---@field split fun(self: medrl.Set, options: medrl.Split): { train: medrl.Set, test: medrl.Set }

---@class medrl.data
---@field get fun(name: string, options: table?): medrl.Set
---@field from_list fun(rows: medrl.Row[]): medrl.Set
---@field concatenate fun(list: medrl.Set[]): medrl.Set
---@field interleave fun(list: table): medrl.Set also probabilities, seed, stopping_strategy

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
---@field upper fun(s: string): string one character for one
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

---@class medrl.Markup a piece of a prompt in which special tokens are matched

---@class medrl.chat
---@field system fun(content: string): table a message
---@field user fun(content: string): table
---@field assistant fun(content: string): table
---@field tagged fun(reasoning: string, answer: string): string
---@field markup fun(text: string): medrl.Markup
---@field is_markup fun(piece: any): boolean

---@class medrl.Template what a file in templates/ returns
---@field render fun(messages: table[], options: table): (string|medrl.Markup)[]
---@field cases? { messages: table[], options: table?, text: string }[]
