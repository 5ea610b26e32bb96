#!/usr/bin/env python3
"""models_check.py MEDRL: small random models of every shape that medrl promises to read, made and saved by transformers,
PEFT and bitsandbytes, and what both make of the same ids. An optional extra, no part of the test suite: it wants torch,
transformers, peft (and bitsandbytes), and says so when they are absent. What both compute in f32 may differ by 1e-4
(7e-6 was seen). Exit code 1: something differs by more, or what medrl has no place for is not refused by its name."""
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile

try:
    import torch
    import transformers
    import peft
except ImportError as e:
    sys.exit("skip: %s" % e)

here = os.path.dirname(os.path.abspath(__file__))
medrl = os.path.abspath(sys.argv[1])
tokens = os.path.join(here, "../golden/tokenizer_tiny96")
rng = random.Random(3)
rows = [[rng.randrange(3, 96) for _ in range(n)] for n in (2, 17, 100)]
failed = 0


def say(ok, text):
    global failed
    failed += not ok
    print("ok  " if ok else "FAIL", text, flush=True)


def logprobs(path, *more):
    text = "".join(json.dumps({"ids": ids}) + "\n" for ids in rows)
    command = [medrl, "logprobs", path, "--dtype", "f32", "--store", "f32", "--device", "cpu", *more]
    out = subprocess.run(command, input=text, capture_output=True, text=True)
    if out.returncode:
        return out.stderr.strip()
    return [json.loads(line)["logprobs"] for line in out.stdout.splitlines()]


def theirs(model):
    out = []
    with torch.no_grad():
        for ids in rows:
            p = torch.log_softmax(model(torch.tensor([ids])).logits[0].float(), -1)
            out.append([p[i, ids[i + 1]].item() for i in range(len(ids) - 1)])
    return out


def compare(name, ours, want):
    if isinstance(ours, str):
        return say(False, "%s: %s" % (name, ours))
    worst = max(abs(a - b) for x, y in zip(ours, want) for a, b in zip(x, y))
    say(len(ours) == len(want) and worst < 1e-4, "%s: log-probabilities differ by %.1e at most" % (name, worst))


def shake(model):
    """Biases and norms begin as 0 and 1, where a mistake would not show."""
    torch.manual_seed(1)
    with torch.no_grad():
        for key, p in model.named_parameters():
            if p.dim() == 1:
                p.add_(0.3 * torch.randn_like(p))
            else:
                p.mul_(4)
    return model.eval()


common = dict(vocab_size=96, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
              num_key_value_heads=2, max_position_embeddings=512, bos_token_id=1, eos_token_id=2)
llama3 = dict(rope_type="llama3", rope_theta=10000.0, factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
              original_max_position_embeddings=64)
kinds = [
    ("llama, untied", transformers.LlamaConfig(**common, tie_word_embeddings=False)),
    ("llama, tied", transformers.LlamaConfig(**common, tie_word_embeddings=True)),
    ("llama, biases everywhere", transformers.LlamaConfig(**common, attention_bias=True, mlp_bias=True)),
    ("llama, llama3 positions", transformers.LlamaConfig(**common, rope_parameters=llama3)),
    ("llama, heads apart from the width", transformers.LlamaConfig(**common, head_dim=32)),
    ("llama, no grouped keys", transformers.LlamaConfig(**{**common, "num_key_value_heads": 4})),
    ("qwen2, tied", transformers.Qwen2Config(**common, tie_word_embeddings=True)),
    ("qwen2, untied", transformers.Qwen2Config(**common, tie_word_embeddings=False)),
    ("qwen3, tied", transformers.Qwen3Config(**common, head_dim=32, tie_word_embeddings=True)),
    ("qwen3, untied", transformers.Qwen3Config(**common, head_dim=16, tie_word_embeddings=False)),
]
refused = [
    ("yarn", transformers.LlamaConfig(**common, rope_parameters=dict(rope_type="yarn", rope_theta=1e4, factor=4.0)),
     "yarn"),
    ("sliding window", transformers.Qwen2Config(**common, use_sliding_window=True, sliding_window=32,
                                                max_window_layers=0), "sliding"),
    ("gemma", transformers.GemmaConfig(**common, head_dim=16), "gemma"),
    ("experts", transformers.Qwen2MoeConfig(**common, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=32,
                                            shared_expert_intermediate_size=32), "qwen2_moe"),
]
with tempfile.TemporaryDirectory() as temp:
    def save(name, model, **more):
        path = os.path.join(temp, name.replace(" ", "-").replace(",", ""))
        model.save_pretrained(path, **more)
        for file in os.listdir(tokens):
            shutil.copy(os.path.join(tokens, file), path)
        return path

    for name, config in kinds:
        torch.manual_seed(0)
        model = shake(transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32))
        path = save(name, model)
        compare(name, logprobs(path), theirs(model))
    compare("in shards", logprobs(save("shards", model, max_shard_size="40KB")), theirs(model))
    for dtype in (torch.bfloat16, torch.float16):
        small = transformers.AutoModelForCausalLM.from_pretrained(path, dtype=dtype)
        compare(str(dtype), logprobs(save(str(dtype), small)), theirs(small.float()))
    for name, config, word in refused:
        got = logprobs(save(name, transformers.AutoModelForCausalLM.from_config(config)))
        say(isinstance(got, str) and word in got, "%s is refused: %s" % (name, got))
    for name, config in (
            ("all seven", dict(r=4, lora_alpha=16, target_modules="all-linear")),
            ("two, rslora", dict(r=8, lora_alpha=8, use_rslora=True, target_modules=["q_proj", "down_proj"])),
            ("a pattern", dict(r=2, lora_alpha=4, target_modules=r".*\.(k|v)_proj"))):
        torch.manual_seed(2)
        base = transformers.AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
        tuned = peft.get_peft_model(base, peft.LoraConfig(task_type="CAUSAL_LM", **config)).eval()
        with torch.no_grad():
            for key, p in tuned.named_parameters():
                if "lora_B" in key:
                    p.normal_(0, 0.1)
        adapter = os.path.join(temp, "adapter-" + name.replace(" ", "-").replace(",", ""))
        tuned.save_pretrained(adapter)
        compare("adapter of %s" % name, logprobs(path, "--adapter", adapter), theirs(tuned))
    no_place = [
        ("one layer", dict(layers_to_transform=[0]), "layers_to_transform"),
        ("a path of one layer", dict(target_modules=["model.layers.1.self_attn.q_proj"]), "layers.0"),
        ("dora", dict(use_dora=True), "use_dora"), ("rank_pattern", dict(rank_pattern={"q_proj": 2}), "rank_pattern"),
        ("bias", dict(bias="all"), "bias"), ("modules_to_save", dict(modules_to_save=["lm_head"]), "modules_to_save"),
    ]
    for name, config, word in no_place:
        base = transformers.AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
        adapter = os.path.join(temp, "adapter-" + name.replace(" ", "-"))
        peft.get_peft_model(base, peft.LoraConfig(task_type="CAUSAL_LM", r=4, **{"target_modules": ["q_proj"], **config})).save_pretrained(adapter)
        got = logprobs(path, "--adapter", adapter)
        say(isinstance(got, str) and word in got, "%s is refused: %s" % (name, got))
    try:
        import bitsandbytes as bnb
    except ImportError:
        bnb = None
        print("skip 4-bit checkpoints: the package bitsandbytes is not installed")
    wide = {**common, "hidden_size": 256, "intermediate_size": 512}  # parts of whole blocks of 16,384 values
    source = save("16 bits", shake(transformers.AutoModelForCausalLM.from_config(transformers.LlamaConfig(**wide))).to(torch.bfloat16))
    for double in (True, False) if bnb else ():
        how = transformers.BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=double)
        small = transformers.AutoModelForCausalLM.from_pretrained(source, dtype=torch.bfloat16, device_map="cpu",
                                                                  quantization_config=how)
        four = save("nf4, double" if double else "nf4", small)
        plain = transformers.AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32)
        values = {}
        for name, module in transformers.AutoModelForCausalLM.from_pretrained(four, device_map="cpu").named_modules():
            if isinstance(module, bnb.nn.Linear4bit):
                module.weight.quant_state.dtype = torch.float32  # else its values are rounded to 16 bits
                values[name + ".weight"] = bnb.functional.dequantize_4bit(module.weight.data, module.weight.quant_state)
        plain.load_state_dict(values, strict=False)
        name = "bitsandbytes %s, nf4%s" % (bnb.__version__, ", double" if double else "")
        compare(name + ", dequantized", logprobs(four), theirs(plain.eval()))
        if double:
            compare(name + ", kept as they are", logprobs(four, "--store", "nf4"), theirs(plain.eval()))
print("torch", torch.__version__, "transformers", transformers.__version__, "peft", peft.__version__)
sys.exit(failed > 0)
