#!/bin/sh
# test_logprobs.sh - tokenize and logprobs on the tiny models: values of the fixtures, all three forms of input, bad lines.
. "$(dirname "$0")/lib.sh"

# near GOT WANT TOLERANCE: two lists of numbers with commas between
near() {
    checks=$((checks + 1))
    printf '%s|%s\n' "$1" "$2" | awk -F '|' -v tol="$3" '
        { n = split($1, a, ","); m = split($2, b, ","); if (n != m || n == 0) { print n " numbers, want " m; exit 1 }
          for (i = 1; i <= n; i++) { d = a[i] - b[i]; if (d < 0) d = -d; if (!(d <= tol)) { print i ": " a[i] ", want " b[i]; exit 1 } } }' ||
        fail "the numbers differ"
}
list() { sed -n "${1}p" "$temp/out" | sed 's/.*\[\(.*\)\].*/\1/'; }

# The second sequence of tiny_models.json and its next_token_logps (transformers, f32), at temperatures 1 and 0.9.
ids='35, 42, 41, 66, 11, 29, 89, 70, 77, 31, 45, 15, 79, 74, 18, 8, 88, 60, 23, 7, 92, 40, 94, 10'
want='-4.438910, -4.714632, -4.739057, -5.192025, -4.662651, -5.308113, -4.175813, -3.364377, -4.550476, -5.482736, -5.008852, -5.448466, -4.907504, -3.963586, -5.046628, -3.872606, -5.466041, -4.923410, -4.461462, -5.752810, -4.002076, -4.336906, -5.933614'
want09='-4.454202, -4.756910, -4.785717, -5.287364, -4.721911, -5.431490, -4.167624, -3.265392, -4.597918, -5.619890, -5.099390, -5.577781, -4.981544, -3.940106, -5.139318, -3.827092, -5.600797, -4.992206, -4.490236, -5.915882, -3.967465, -4.344906, -6.119280'
feed "{\"ids\": [$ids]}"
run 0 logprobs "$golden/tiny/tiny_smollm2" --dtype f32
near "$(list 1)" "$want" 1e-4
feed "{\"ids\": [$ids]}"
run 0 logprobs "$golden/tiny/tiny_smollm2" --dtype f32 --temperature 0.9 --threads 1
near "$(list 1)" "$want09" 1e-4

# A prompt and its completion: the numbers of the whole, from the completion on.
head=$(echo "$ids" | cut -d, -f1-10)
tail=$(echo "$ids" | cut -d, -f11-)
feed "{\"prompt_ids\": [$head], \"completion_ids\": [$tail]}" "" "{\"ids\": [3]}" "{\"ids\": []}" "{\"prompt_ids\": [1], \"completion_ids\": []}"
run 0 logprobs "$golden/tiny/tiny_smollm2" --dtype f32
near "$(list 1)" "$(echo "$want" | cut -d, -f10-)" 1e-4
is "$(sed -n 2p "$temp/out")" '{"logprobs": []}'
is "$(sed -n 4p "$temp/out")" '{"logprobs": []}'

# With an adapter (peft's numbers), and bf16 and NF4 near them.
qids='0, 9, 55, 63, 42, 31, 24, 63, 18, 9, 32, 21, 40, 93, 64, 19, 47, 77, 0, 71, 87, 33, 24, 57'
qwant='-3.749158, -6.515911, -3.309893, -4.995261, -5.014925, -5.716176, -4.471115, -4.345214, -3.753525, -4.720968, -5.282641, -4.282620, -4.344546, -3.447032, -4.820704, -6.428572, -5.208386, -5.090653, -5.161373, -4.671524, -5.380773, -5.487478, -3.957423'
lora='-3.992036, -6.296401, -3.436504, -5.084527, -5.194910, -4.800302, -4.790389, -3.889575, -4.019325, -4.747610, -6.183458, -4.610879, -4.774765, -3.498966, -5.016316, -6.241609, -5.408241, -5.692249, -5.094350, -4.746885, -5.981519, -5.225797, -4.187160'
feed "{\"ids\": [$qids]}"
run 0 logprobs "$golden/tiny/tiny_qwen2" --dtype f32
near "$(list 1)" "$qwant" 1e-4
feed "{\"ids\": [$qids]}"
run 0 logprobs "$golden/tiny/tiny_qwen2" --adapter "$golden/tiny/tiny_qwen2_lora" --dtype f32
near "$(list 1)" "$lora" 1e-4
feed "{\"ids\": [$qids]}"
run 0 logprobs "$golden/tiny/tiny_qwen2" --adapter "$golden/tiny/tiny_qwen2_lora" --dtype bf16
near "$(list 1)" "$lora" 0.1
for type in f16 float16; do
    feed "{\"ids\": [$qids]}"
    run 0 logprobs "$golden/tiny/tiny_qwen2" --adapter "$golden/tiny/tiny_qwen2_lora" --dtype $type
    near "$(list 1)" "$lora" 0.01
done
feed "{\"ids\": [$qids]}"
run 0 logprobs "$golden/tiny/tiny_qwen2" --adapter "$golden/tiny/tiny_qwen2_lora" --dtype f32 --store f16
near "$(list 1)" "$lora" 0.01
feed "{\"ids\": [$qids]}"
run 0 logprobs "$golden/tiny/tiny_qwen2" --adapter "$golden/tiny/tiny_qwen2_lora" --dtype f32 --store nf4
near "$(list 1)" "$lora" 1.5

# Text and tokens, there and back; markup is a token unless --plain.
tiny_model tiny_smollm2
feed '{"text": "H<|im_end|>"}' '{"ids": [43, 1]}'
run 0 tokenize "$temp/tiny"
is "$(sed -n 1p "$temp/out")" '{"ids": [43, 1]}'
is "$(sed -n 2p "$temp/out")" '{"text": "H<|im_end|>", "ids": [43, 1]}'
feed '{"text": "a b<|im_end|>"}'
run 0 tokenize "$temp/tiny" --plain
n=$(grep -o ',' "$temp/out" | wc -l)
[ "$n" -ge 8 ] || fail "--plain: <|im_end|> became one token"
cp "$temp/out" "$temp/in"
run 0 tokenize "$temp/tiny"
prints '"text": "a b<|im_end|>"'
feed '{"text": "Hello"}'
run 0 tokenize "$temp/tiny"
ids=$(list 1)
feed "{\"ids\": [$ids]}" '{"text": "Hello"}'
run 0 logprobs "$temp/tiny" --dtype f32
is "$(sed -n 1p "$temp/out")" "$(sed -n 2p "$temp/out")"

# Lines that are wrong: what came before them is answered, the line is named.
feed '{"ids": [1, 2]}' '{"ids": [1, 96]}'
run 65 logprobs "$temp/tiny"
says 'stdin:2: ids[1] is 96, want an id in 0..95'
is "$(wc -l <"$temp/out" | tr -d ' ')" 1
feed '' '{"ids": [1, 2.5]}'
run 65 logprobs "$temp/tiny"
says 'stdin:2: ids[1] is 2.5, want an id'
feed '{"ids": "1"}'
run 65 logprobs "$temp/tiny"
says 'stdin:1: field "ids" is a string, want an array'
feed '{"ids": [1], "ids": [2]}'
run 65 logprobs "$temp/tiny"
says 'stdin:1: byte 13: the key "ids" stands twice'
feed '{"prompt_ids": [1]}'
run 65 logprobs "$temp/tiny"
says 'field "completion_ids" is missing'
feed '{}'
run 65 logprobs "$temp/tiny"
says 'stdin:1: want a field "text", "ids"'
feed 'hello'
run 65 tokenize "$temp/tiny"
says 'stdin:1: byte 0:'
feed '{"text": 1}'
run 65 tokenize "$temp/tiny"
says 'stdin:1: field "text" is a number, want a string'
feed '{"text": "x"}'
run 2 logprobs "$golden/tiny/tiny_smollm2"
says 'has no tokenizer'
long=$(awk 'BEGIN { for (i = 0; i < 257; i++) printf "%s5", i ? "," : "" }')
feed "{\"ids\": [$long]}"
run 65 logprobs "$temp/tiny"
says 'has 257 tokens, the model'
run 2 logprobs "$temp/tiny" --adapter "$temp"
run 2 logprobs "$temp/tiny" --dtype f64
says 'dtype is "f64", want auto, f32, bf16 or f16'
run 2 logprobs "$temp/tiny" --store q4
says '--store is "q4", want auto, f32, bf16, f16 or nf4'

# A damaged model is bad data, named by file.
cp -r "$temp/tiny" "$temp/cut"
head -c 500 "$golden/tiny/tiny_smollm2/model.safetensors" >"$temp/cut/model.safetensors"
run 65 logprobs "$temp/cut"
says 'model.safetensors'
cp "$golden/tiny/tiny_smollm2/model.safetensors" "$temp/cut/"
sed 's/"llama"/"mamba"/; s/LlamaFor/MambaFor/' "$golden/tiny/tiny_smollm2/config.json" >"$temp/cut/config.json"
run 65 logprobs "$temp/cut"
says 'mamba'
passed
