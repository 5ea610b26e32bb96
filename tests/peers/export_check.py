#!/usr/bin/env python3
"""export_check.py MEDRL MODEL|RUN [-- more options of `medrl export`]: what other programs make of an export.
export_check.py MEDRL --tiny: the tiny models of tests/golden as f32 GGUFs, each architecture once, through llama.cpp.

An optional extra, no part of the test suite: each part says when its packages are absent and goes on.

  gguf           reads every tensor of the GGUF and compares it with the merged folder's
  llama.cpp      answers from the GGUF through its own tokenizer and template (llama-cpp-python, else xllamacpp)
  transformers   the merged folder: prompt ids through its tokenizer and template, greedy ids, log-probabilities
  peft           the adapter on its base; wants a run whose base is a folder

Greedy answers are compared with `medrl generate` on the same files: the same ids or text, or where they part. bf16 products
differ from program to program, so medrl and transformers compute in f32; llama.cpp rounds activations to 8 bits at a
quantized weight, so only f16 and f32 files are held to the same text. Exit code 1: a part failed.
"""
import json
import os
import shutil
import subprocess
import sys
import tempfile

QUESTIONS = ["What is 17 + 25?", "Is aspirin an antibiotic? Answer yes or no.", "Name three symptoms of influenza."]
TOKENS = 24
failed = 0


def say(part, ok, text):
    global failed
    failed += not ok
    print(f"{'ok  ' if ok else 'FAIL'} {part}: {text}", flush=True)


def absent(part, what):
    print(f"skip {part}: {what}", flush=True)


def medrl(*args, **kw):
    done = subprocess.run([MEDRL, *args], capture_output=True, text=True, **kw)
    if done.returncode:
        sys.exit(f"medrl {' '.join(args)}: {done.stderr}")
    return done.stdout


def answers(model):
    """Ids and text of each answer by medrl, in f32."""
    out = []
    for q in QUESTIONS:
        o = json.loads(medrl("generate", model, q, "--temperature", "0", "--max-new-tokens", str(TOKENS), "--dtype", "f32",
                             "--device", "cpu", "--json"))
        out.append((o["completions"][0]["ids"], o["completions"][0]["text"]))
    return out


def prompt_ids(model, q):
    line = json.dumps({"messages": [{"role": "user", "content": q}], "add_generation_prompt": True})
    return json.loads(medrl("tokenize", model, input=line))["ids"]


def export(to, *more):
    out = os.path.join(TEMP, "-".join((to, *more)).replace("-type", "").replace("--", "-"))
    if to == "gguf" and "llama.cpp knows by name" in subprocess.run(
            [MEDRL, "export", WHAT, "--to", to, "--out", out, "--no-check", "--force"], capture_output=True, text=True).stderr:
        return absent("gguf", "llama.cpp has no name for this tokenizer's way of splitting text")
    report = json.loads(medrl("export", WHAT, "--to", to, "--out", out, "--force", "--json", "--dtype", "f32", "--device", "cpu", *MORE, *more))
    print(f"     export {to} {' '.join(more)}: {report['check']}")
    return out


def check_gguf(folder, merged, kind):
    try:
        import gguf
        import numpy as np
    except ImportError as e:
        return absent("gguf", e)
    reader = gguf.GGUFReader(os.path.join(folder, f"model-{kind}.gguf"))
    types = {}
    worst = 0.0
    from safetensors import safe_open
    arch = bytes(reader.fields["general.architecture"].parts[-1]).decode()
    heads = {"q": "attention.head_count", "k": "attention.head_count_kv"}
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH[arch.upper()], 200)
    with safe_open(os.path.join(merged, "model.safetensors"), "np" if kind == "f32" else "pt") as f:
        ours = {names.get_name(n, try_suffixes=(".weight", ".bias")): n for n in f.keys()}
        for t in reader.tensors:
            types[t.tensor_type.name] = types.get(t.tensor_type.name, 0) + 1
            if t.name not in ours:
                continue
            got = gguf.quants.dequantize(t.data, t.tensor_type).astype(np.float64)
            want = f.get_tensor(ours[t.name])
            want = np.asarray(want if kind == "f32" else want.float().numpy(), dtype=np.float64)
            part = t.name.split(".")[-2]
            if arch == "llama" and part in ("attn_q", "attn_k"):
                h = int(reader.fields[f"{arch}.{heads[part[-1]]}"].parts[-1][0])
                shape = want.shape
                want = want.reshape(h, 2, shape[0] // h // 2, *shape[1:]).swapaxes(1, 2).reshape(shape)
            worst = max(worst, float(np.sqrt(((got.reshape(want.shape) - want) ** 2).mean() / (want ** 2).mean())))
    limit = {"f32": 1e-2, "f16": 5e-3, "q8_0": 1.2e-2, "q4_k_m": 0.12, "q4_0": 0.15}[kind]
    say("gguf", worst <= limit, f"{kind}: {len(reader.tensors)} tensors {types}, largest relative error {worst:.2e}")


def llama_cpp(path):
    """A function from a question to llama.cpp's greedy answer, or None."""
    try:
        import llama_cpp
        model = llama_cpp.Llama(path, n_ctx=1024, verbose=False)
        return lambda q: model.create_chat_completion([{"role": "user", "content": q}], max_tokens=TOKENS, temperature=0
                                                      )["choices"][0]["message"]["content"]
    except ImportError:
        pass
    try:
        import xllamacpp
    except ImportError as e:
        absent("llama.cpp", f"no llama_cpp, and {e}")
        return None
    p = xllamacpp.CommonParams()
    p.model.path, p.n_ctx, p.warmup, p.n_parallel = path, 1024, False, 1
    server = xllamacpp.Server(p)
    return lambda q: server.handle_chat_completions({"messages": [{"role": "user", "content": q}], "max_tokens": TOKENS,
                                                     "temperature": 0, "top_k": 1})["choices"][0]["message"]["content"]


def check_llama(folder, kind):
    path = os.path.join(folder, f"model-{kind}.gguf")
    ask = llama_cpp(path)
    if not ask:
        return
    same = 0
    for q, (_, want) in zip(QUESTIONS, answers(path)):
        got = ask(q)
        same += got.strip() == want.strip()
        if got.strip() != want.strip():
            print(f"     {kind}: {got!r}\n     medrl: {want!r}")
    say("llama.cpp", same == len(QUESTIONS) or kind not in ("f32", "f16"),
        f"{kind}: {same} of {len(QUESTIONS)} greedy answers are the same text")


def check_transformers(folder):
    try:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer
    except ImportError as e:
        return absent("transformers", e)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    same = ids_same = 0
    for q, (want, _) in zip(QUESTIONS, answers(folder)):
        ids = prompt_ids(folder, q)
        theirs = tokenizer.apply_chat_template([{"role": "user", "content": q}], add_generation_prompt=True, return_dict=True)
        theirs = list(theirs["input_ids"])
        ids_same += theirs == ids
        if theirs != ids:
            print(f"     transformers {theirs}\n     medrl        {ids}")
        out = model.generate(torch.tensor([ids]), attention_mask=torch.ones(1, len(ids), dtype=torch.long),
                             max_new_tokens=TOKENS, do_sample=False, repetition_penalty=1.0)[0, len(ids):].tolist()
        same += out == want
        if out != want:
            print(f"     transformers {out}\n     medrl        {want}")
    say("transformers", ids_same == len(QUESTIONS), f"{ids_same} of {len(QUESTIONS)} prompts have the same ids")
    say("transformers", same == len(QUESTIONS), f"{same} of {len(QUESTIONS)} greedy answers have the same ids")


def check_peft(folder):
    try:
        import torch
        from peft import PeftModel
        from transformers import AutoModelForCausalLM
    except ImportError as e:
        return absent("peft", e)
    base = json.load(open(os.path.join(folder, "adapter_config.json")))["base_model_name_or_path"]
    if not os.path.isdir(base):
        return absent("peft", f"the base {base} is no folder here")
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), folder)
    bare = [p for n, p in model.named_parameters() if "lora_B" in n and float(p.abs().max()) == 0]
    lines, rows = [], []
    for q in QUESTIONS:
        ids = prompt_ids(base, q)
        with torch.no_grad():
            logp = torch.log_softmax(model(torch.tensor([ids])).logits[0].double(), -1)
        rows.append([float(logp[i, t]) for i, t in enumerate(ids[1:])])
        lines.append(json.dumps({"ids": ids}))
    ours = medrl("logprobs", folder, "--dtype", "f32", "--device", "cpu", input="\n".join(lines) + "\n").splitlines()
    gap = max(abs(a - b) for r, o in zip(rows, ours) for a, b in zip(r, json.loads(o)["logprobs"]))
    say("peft", gap < 1e-3, f"log-probabilities of {sum(map(len, rows))} tokens differ by {gap:.1e} at most; "
        f"{len(bare)} of the lora_B are zero")


def tiny():
    """Greedy tokens and log-probabilities of llama.cpp from prompts in ids; xllamacpp only."""
    try:
        import xllamacpp
    except ImportError as e:
        return absent("llama.cpp", e)
    golden = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "golden")
    for name in ("tiny_qwen2", "tiny_llama3", "tiny_smollm2", "tiny_qwen3"):
        base = os.path.join(TEMP, name)
        shutil.copytree(os.path.join(golden, "tokenizer_tiny96"), base)
        shutil.copytree(os.path.join(golden, "tiny", name), base, dirs_exist_ok=True)
        adapter = os.path.join(golden, "tiny", name + "_lora")
        more = ["--adapter", adapter] if os.path.isdir(adapter) else []
        out = os.path.join(TEMP, name + "-gguf")
        medrl("export", base, *more, "--to", "gguf", "--type", "f32", "--out", out, "--dtype", "f32", "--device", "cpu")
        p = xllamacpp.CommonParams()
        p.model.path, p.n_ctx, p.warmup, p.n_parallel = os.path.join(out, "model-f32.gguf"), 256, False, 1
        server = xllamacpp.Server(p)
        same, gap = 0, 0.0
        for q in QUESTIONS:
            ids = json.loads(medrl("tokenize", base, input=json.dumps({"text": q})))["ids"]
            want = json.loads(medrl("generate", base, *more, "--raw", q, "--temperature", "0", "--max-new-tokens", str(TOKENS),
                                    "--dtype", "f32", "--device", "cpu", "--json"))["completions"][0]
            got = server.handle_completions({"prompt": ids, "max_tokens": TOKENS, "temperature": 0, "top_k": 1,
                                             "logprobs": 1})["choices"][0]
            theirs, ours = got["logprobs"]["content"], want["logprobs"]
            at = 0  # a token is a character here, but for those that end an answer
            while at < min(len(got["text"]), len(want["text"])) and got["text"][at] == want["text"][at]:
                at += 1
            gap = max([gap] + [abs(a["logprob"] - b) for a, b in zip(theirs[:at], ours)])
            ended = at == len(want["text"])  # medrl stops at every id of the list, llama.cpp at the one that a GGUF has
            tie = at < min(len(theirs), len(ours)) and abs(theirs[at]["logprob"] - ours[at]) < 0.01
            same += ended or tie
            if not ended:
                print(f"     {'a near tie' if tie else 'differs'} at token {at + 1}: {got['text']!r}, medrl {want['text']!r}")
        say("llama.cpp", same == len(QUESTIONS) and gap < 0.02,
            f"{name}: {same} of {len(QUESTIONS)} greedy answers are the same, log-probabilities differ by {gap:.4f} at most")


def main():
    if WHAT == "--tiny":
        tiny()
        sys.exit(1 if failed else 0)
    merged = export("merged")
    for kind in ("f32", "f16", "q8_0", "q4_k_m", "q4_0"):
        folder = export("gguf", "--type", kind)
        if not folder:
            break
        try:
            import torch  # noqa: F401 - bf16 of the merged folder needs it
            check_gguf(folder, merged, kind) if kind != "f32" else None
        except ImportError as e:
            absent("gguf", e)
        check_llama(folder, kind)
    check_transformers(merged)
    if os.path.isdir(WHAT) and any(os.path.exists(os.path.join(WHAT, n)) for n in ("adapter", "adapter_config.json")):
        check_peft(export("adapter"))
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    MEDRL, WHAT = os.path.abspath(sys.argv[1]), sys.argv[2]
    MORE = sys.argv[4:] if len(sys.argv) > 3 and sys.argv[3] == "--" else []
    with tempfile.TemporaryDirectory() as TEMP:
        main()
