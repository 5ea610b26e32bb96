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
---@field n_tokens integer tokens of the completion, its end token included
---@field truncated boolean the completion hit max_completion_length
---@field prompt string the prompt as the model saw it, with its template
---@field step integer from 1; 0 in cases
---@field options table the reward's own options, with the recipe's values

---One completion of a batch.
---@class medrl.Sample
---@field completion string
---@field row medrl.Row the same table for all of a batch
---@field info medrl.Info

---{ completion, row, score }, or by name. Of score_batch: { completions, row, scores }.
---@class medrl.Case
---@field [1] string|(string|medrl.Sample)[]
---@field [2] table
---@field [3] number|(number|false)[]|nil nil: abstains
---@field completion string?
---@field completions (string|medrl.Sample)[]?
---@field row table?
---@field score number?
---@field scores (number|false)[]?
---@field options table?
---@field info table? fields of info in place of the defaults

---What `medrl test --fuzz` lets pass: by the exploit's name, or "*" for all that are not named.
---@class medrl.Fuzz
---@field allow table<string, string|{ reason: string, up_to: number }>

---A file rewards/NAME.lua returns one. It has score, or score_batch, not both.
---@class medrl.Reward
---@field name string? the file's name
---@field range number[]? { lowest, highest }; another value is a fault, and a fault counts as the lowest
---@field on_error "min"|"mask"|"stop"? what a fault does: the lowest value, left out, the end of the run; "min"
---@field options table<string, number|string|boolean>? names and defaults; a recipe may set these and no others
---@field score nil|fun(completion: string, row: medrl.Row, info: medrl.Info): number? nil abstains
---@field score_batch nil|fun(samples: medrl.Sample[]): (number|false)[] all completions of one prompt; false abstains
---@field cases medrl.Case[]?
---@field fuzz medrl.Fuzz?

---A file recipes/NAME.lua returns one; `medrl help recipe` lists every field of the sections.
---@class medrl.Recipe
---@field method "grpo"|"sft"|nil
---@field model { name: string, max_seq_length: integer?, load_in_4bit: boolean?, dequantize: "auto"|boolean|nil, dtype: string?, adapter: string? }
---@field lora { r: integer?, lora_alpha: number?, target_modules: string|string[]?, use_rslora: boolean? }?
---@field data medrl.RecipeData
---@field rewards (string|table)[]? names, or { "name", option = value, weight = number }
---@field reward_weights number[]?
---@field grpo table?
---@field sft table?
---@field on_cpu table? merged over the rest when no GPU is used
---@field output_dir string?

---@class medrl.RecipeData
---@field train medrl.Set?
---@field eval medrl.Set?
---@field files table<string, string|table>? data set's name to its file; "none" leaves it out
---@field system string? the system prompt; "" for none
---@field shots medrl.Message[]|table<string, medrl.Message[]>? examples in the prompt, for all or by data set

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

---A compiled pattern. What exceeds the match limit is no match, with "match limit reached" as the second result.
---@class medrl.Regex
---@field test fun(self: medrl.Regex, s: string): boolean, string? found anywhere
---@field match fun(self: medrl.Regex, s: string): string?, ... at the start only: the captures, or the whole match
---@field find fun(self: medrl.Regex, s: string, init: integer?): integer?, integer?, ... first and last byte, captures
---@field gmatch fun(self: medrl.Regex, s: string): fun(): string?, ...
---@field gsub fun(self: medrl.Regex, s: string, repl: string|fun(...: string): string?): string, integer

---require "medrl.re": PCRE2.
---@class medrl.re
---@field compile fun(pattern: string, flags: string?): medrl.Regex flags out of i, m, s, x, u
---@field space string a class with Python's white space

---require "medrl.text": Python's str on UTF-8, linear in the text.
---@class medrl.text
---@field strip fun(s: string): string
---@field lower fun(s: string): string
---@field count fun(s: string, part: string): integer occurrences that do not overlap
---@field contains fun(s: string, part: string): boolean
---@field after_last fun(s: string, mark: string): string all of s when there is none
---@field before_first fun(s: string, mark: string): string all of s when there is none
---@field last_between fun(s: string, open: string, close: string): string? stripped; nil when either is missing
---@field upper fun(s: string): string one character for one
---@field ulen fun(s: string): integer code points
---@field is_digit fun(s: string): boolean not empty, and digits of any script only

---require "medrl.answer": the answer of a completion, and whether it is right.
---@class medrl.answer
---@field tagged fun(completion: string): string? the text of the only <answer> block
---@field boxed fun(completion: string): string[] what each \\boxed{} holds
---@field final fun(completion: string): string? \\boxed{}, else <answer>, else "the answer is"
---@field normal fun(s: string): string the form in which texts are compared
---@field number fun(s: string): number?, boolean? the number that all of s is; whether it had a percent sign
---@field last_number fun(s: string): number?
---@field near fun(a: number, b: number): boolean
---@field equal fun(said: string, gold: string): boolean
---@field gold fun(row: medrl.Row, column: string): string?
---@field correct fun(completion: string, row: medrl.Row, column: string): boolean? nil: the row has no gold answer

---require "medrl.chat"
---@class medrl.chat
---@field system fun(content: string): medrl.Message
---@field user fun(content: string): medrl.Message
---@field assistant fun(content: string): medrl.Message
---@field tagged fun(reasoning: string, answer: string): string the two-block form, tags on their own lines

---require "medrl.json": strict; keys leave sorted, an empty array stays one.
---@class medrl.json
---@field encode fun(value: any): string
---@field decode fun(s: string, options: { null: boolean }?): any nulls are json.null; { null = false } drops them
---@field array fun(t: table?): table marks a table as an array
---@field is_array fun(t: any): boolean
---@field null lightuserdata

---require "medrl.rng": numbers that are functions of what they are for.
---@class medrl.rng
---@field uniform fun(seed: integer, i: integer, stream: integer?): number in [0, 1)
---@field pcg64 fun(seed: integer): medrl.pcg64

---numpy's default_rng.
---@class medrl.pcg64
---@field double fun(self: medrl.pcg64): number
---@field permutation fun(self: medrl.pcg64, n: integer): integer[] of 1..n

---require "medrl.log": lines for the log, at most 40 in one call; print writes there too.
---@class medrl.log
---@field info fun(line: string)
---@field warn fun(line: string)
---@field debug fun(line: string)

---require "medrl.files": rows of data files; opened by the program, for data sets.
---@class medrl.files
---@field open fun(path: string): medrl.rows .parquet, .jsonl, .json, .csv or .tsv, the last four also .gz and .zst
---@field folder fun(path: string, pattern: string?): string?, string[]? what stands before the names, and the data files

---@class medrl.rows
---@field count fun(self: medrl.rows): integer
---@field get fun(self: medrl.rows, i: integer): table from 1; nulls are absent
---@field line fun(self: medrl.rows, i: integer): integer where the row begins in its file
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
