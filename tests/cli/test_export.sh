#!/bin/sh
# test_export.sh - `medrl export`: each kind from a run and from a model, the same answers from what came out, nothing left
# behind when it fails; damaged inputs are exit 65.
. "$(dirname "$0")/lib.sh"
cd "$temp" || exit 1
tiny_model tiny_qwen2
mv tiny base
cp -r "$golden/tiny/tiny_qwen2_lora" adapter
chmod -R u+w base adapter
# a chat format, so that the check speaks as a chat does and the Modelfile has something to say
python_free_template='{% for m in messages %}<|im_start|>{{ m.role }}
{{ m.content }}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}'
printf '%s' "$python_free_template" >base/chat_template.jinja
left() { find . -name '*.tmp-*' | grep . && fail "a temporary folder is left"; :; }
ids() { sed 's/.*"ids": *\[\([^]]*\)\].*/\1/' "$temp/out"; }
greedy() { run 0 generate "$@" "What is aspirin?" --temperature 0 --max-new-tokens 16 --dtype f32 --device cpu --json; ids; }

# --- from a model with an adapter ---
live=$(greedy base --adapter adapter)
[ "$live" != "$(greedy base)" ] || fail "the adapter of the fixture changes nothing"
run 0 export base --adapter adapter --to merged --type f32 --out merged --dtype f32 --json
prints '"tokens_agree"'
prints '"gap_allowed": 0.001'
is "$(greedy merged)" "$live"
for file in config.json tokenizer.json chat_template.jinja model.safetensors; do [ -f merged/$file ] || fail "no merged/$file"; done
cmp -s merged/chat_template.jinja base/chat_template.jinja || fail "the template is another one"
run 0 export base --adapter adapter --to gguf --type f32 --out gguf --dtype f32 --name "a tiny one"
prints "ollama create gguf -f gguf/Modelfile"
is "$(greedy gguf/model-f32.gguf)" "$live"
grep -q '^FROM ./model-f32.gguf$' gguf/Modelfile || fail "Modelfile: no FROM"
grep -q '^PARAMETER stop "<|im_end|>"$' gguf/Modelfile || fail "Modelfile: no stop"
grep -q '{{ .Content }}<|im_end|>$' gguf/Modelfile || fail "Modelfile: no TEMPLATE"
grep -qa 'a tiny one' gguf/model-f32.gguf || fail "the name is not in the GGUF"
run 0 export base --adapter adapter --to adapter --out peft --base org/tiny --dtype f32
cmp -s peft/adapter_model.safetensors adapter/adapter_model.safetensors || fail "the adapter's values are others"
grep -q '"base_model_name_or_path": "org/tiny"' peft/adapter_config.json || fail "the base's name is missing"
is "$(greedy base --adapter peft)" "$live"
# a quantized type ends with its check too, and says where the answers part
run 0 export base --adapter adapter --to gguf --type q8_0 --out small --dtype f32
says "q8_0: 0.1 on average is allowed"
run 0 generate small/model-q8_0.gguf hello --temperature 0 --max-new-tokens 4
# and back: a GGUF becomes a folder with a tokenizer of its own
run 0 export gguf/model-f32.gguf --to merged --type f32 --out again --dtype f32
is "$(greedy again)" "$live"
# shards
run 0 export base --to merged --type f32 --shard-mb 1 --out shards --dtype f32
left

# --- from a run ---
run 0 run recipes/smoke.lua -o run -q --device cpu
run 0 export run --to merged
is "$(tail -1 "$temp/out")" "run/export-merged"
says "greedy tokens agree"
run 0 export run --to adapter --json
prints '"gap_mean": 0,'
run 2 export run --to adapter
says "run/export-adapter: is there already; give another --out, or --force to replace it"
run 0 export run --to adapter --force
run 65 export run --to gguf
says "none that llama.cpp knows by name"
# a run that starts where another ended has its shape
run 0 run recipes/smoke.lua -o next -q --device cpu --adapter run
run 2 run recipes/smoke.lua -o bad -q --device cpu --adapter adapter
says "section lora differs from the adapter that the run starts from"
left

# --- mistakes and damage ---
run 2 export base --to onnx
says "want adapter, merged or gguf"
run 2 export base
says "wants --to"
run 2 export base --to gguf --type q9
says "q4_k_m"
run 2 export base --to gguf --out x.gguf
says "want a folder"
run 2 export base --to adapter
says "has no adapter"
tiny_model tiny_smollm2
run 2 export base --adapter adapter --to merged --base tiny --out x
says "has another shape than"
cp -r base broken
size=$(wc -c <broken/model.safetensors)
head -c $((size - 100)) base/model.safetensors >broken/model.safetensors
run 65 export broken --to gguf --out x
cp base/model.safetensors broken/
sed 's/"q_proj"/"w_proj"/' adapter/adapter_config.json >broken_config.json
cp -r adapter broken_adapter && cp broken_config.json broken_adapter/adapter_config.json
run 65 export base --adapter broken_adapter --to merged --out x
head -c 4000 gguf/model-f32.gguf >cut.gguf
run 65 export cut.gguf --to merged --out x
says "cut"
[ ! -e x ] || fail "a failed export left x"
left
# a disk that has no room for it: nothing but the message
limited() { (ulimit -f 40 && run "$@") || exit 1; }
limited 74 export base --to merged --type f32 --out x
limited 74 export base --to gguf --type f32 --out x --no-check
[ ! -e x ] || fail "a cut export left x"
left
# an export that answers otherwise is not put in place: a base with other weights behind the same shape
cp -r base other
"$medrl" export base --adapter adapter --to merged --type f32 --no-check --out tuned >/dev/null 2>&1
cp tuned/model.safetensors other/
run 70 export base --to merged --type f32 --base other --out x --dtype f32 --store f32
says "answers otherwise than the live model"
[ ! -e x ] || fail "a wrong export was put in place"
run 0 export base --to merged --type f32 --base other --out x --dtype f32 --store f32 --no-check
left
passed
