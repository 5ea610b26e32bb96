#!/bin/sh
# test_template.sh - chat templates as a user meets them: messages through `tokenize`, a template of one's own in a recipe, what
# a run records of it, and mistakes.
. "$(dirname "$0")/lib.sh"

tiny_model tiny_qwen2
cat >"$temp/tiny/chat_template.jinja" <<'END'
{%- for m in messages %}
{{- '<|im_start|>' + m.role + '\n' + m.content | trim + '<|im_end|>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}
{%- if note is defined %}{{ note }}{% endif %}
END

# Messages: the special tokens are the template's; those in the message are text, and nothing of it is lost.
feed '{"messages": [{"role": "user", "content": " Hi <|im_end|> "}], "add_generation_prompt": true}'
run 0 tokenize "$temp/tiny"
prints '"text": "<|im_start|>user\nHi <|im_end|><|im_end|>\n<|im_start|>assistant\n"'
is "$(sed 's/.*"ids": //' "$temp/out" | tr -d '[],' | tr ' ' '\n' | grep -cx 1)" 1
feed '{"messages": [{"role": "user", "content": "a"}], "note": "N"}'
run 0 tokenize "$temp/tiny"
prints '<|im_end|>\nN"'
run 0 tokenize "$temp/tiny" --show-template
prints 'jinja = function(v, o)'
prints 'R.filter("trim", R.attr(v["m"], "content"), {}, {})'

# Another template, in Jinja and in Lua.
printf '%s' '<|im_start|>{{ messages[0].content }}' >"$temp/own.jinja"
feed '{"messages": [{"role": "user", "content": "a"}]}'
run 0 tokenize "$temp/tiny" --template "$temp/own.jinja"
prints '"text": "<|im_start|>a"'
feed '{"messages": [{"role": "user", "content": "a"}]}'
run 0 tokenize "$temp/tiny" --template templates/chatml
prints '"text": "<|im_start|>user\na<|im_end|>\n"'

# Mistakes: one line, with file and line.
printf 'a\n{%% if x %%}' >"$temp/own.jinja"
feed '{"messages": [{"role": "user", "content": "a"}]}'
run 2 tokenize "$temp/tiny" --template "$temp/own.jinja"
says 'own.jinja:2: a block that begins here has no end'
printf 'a\n{{ messages.x.y }}' >"$temp/tiny/chat_template.jinja"
feed '{"messages": [{"role": "user", "content": "a"}]}'
run 65 tokenize "$temp/tiny"
says 'stdin:1: '
says 'chat template:2: a list has no "x", so it has no "y"'
printf 'a\n\n{%% include "x" %%}' >"$temp/tiny/chat_template.jinja"
run 65 generate "$temp/tiny" "Hi"
says 'chat template:3: tag "include" is not one that chat templates use'

# In a recipe: the prompt of a row, the date of the run, and what is recorded.
printf '%s' "<|im_start|>{{ strftime_now('%Y') }}{{ word }}{{ messages[-1].content }}<|im_end|>" >"$temp/own.jinja"
cat >"$temp/recipe.lua" <<END
local data = require "medrl.data"
return {
  method = "sft",
  model = { name = "$temp/tiny", chat_template = "$temp/own.jinja", chat_template_kwargs = { word = "W" },
            chat_template_date = "1999-02-03" },
  data = { system = "", train = data.get "rows", files = { rows = "$temp/rows.jsonl" } },
  lora = { r = 2 },
  sft = { max_steps = 1, prompts_per_step = 1, max_prompt_length = 64, max_completion_length = 16 },
  output_dir = "$temp/run",
}
END
mkdir -p "$temp/datasets"
cat >"$temp/datasets/rows.lua" <<'END'
return { name = "rows", row = function(r)
  return { answer = "A", messages = { { role = "user", content = r.q }, { role = "assistant", content = "A" } } }
end }
END
printf '{"q": "Q1"}\n{"q": "Q2"}\n' >"$temp/rows.jsonl"
cd "$temp" || exit 1
run 0 run recipe.lua --device cpu
grep -q '"chat_template_date":[[:space:]]*"1999-02-03"' run/config.json || fail "config.json lacks the date"
sha=$(sha256sum own.jinja | cut -d' ' -f1)
grep -q "\"chat_template_sha256\":[[:space:]]*\"$sha\"" run/config.json || fail "config.json lacks the template's hash"
cmp own.jinja "run/scripts/$sha.jinja" || fail "the template is not among the scripts"
run 0 data recipe.lua -n 1
prints '<|im_start|>1999WA<|im_end|>'
run 2 data recipe.lua --set model.chat_template_date=today
says 'model.chat_template_date is "today", want a day such as "2026-07-26"'
run 2 data recipe.lua --set model.chat_template_kwargs=3
says 'model.chat_template_kwargs is 3, want a table of names'
run 2 data recipe.lua --set model.chat_template=templates/none
says 'model.chat_template: templates/none: no such file'

# Without a date the day of the start is taken, and a resumed run keeps it.
run 0 run recipe.lua --device cpu --set model.chat_template_date= --output run2
today=$(date +%Y-%m-%d)
grep -q "\"chat_template_date\":[[:space:]]*\"$today\"" run2/config.json || fail "config.json lacks today's date"
sed "s/$today/2001-01-01/" run2/config.json >c.json && cp c.json run2/config.json
feed '{"messages": [{"role": "user", "content": "q"}]}'
run 0 tokenize run2
prints '<|im_start|>2001Wq<|im_end|>'
run 0 resume run2 --device cpu
grep -q '"chat_template_date":[[:space:]]*"2001-01-01"' run2/config.json || fail "a resumed run took another day"
passed
