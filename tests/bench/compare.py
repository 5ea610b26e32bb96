"""Prints medrl and its peers side by side: compare.py DIR, with medrl.json, and torch.json and llamacpp.json where
they ran.

A ratio above 1 means that medrl is faster (or smaller). medrl's GRPO step is bench's measured step_s when bench
gives one, else it is put together from bench's figures and says so: 4 prompts at the prefill rate, 47 decode steps
of 24 rows, and the training pack.
"""
import json
import pathlib
import sys

GROUPS, SAMPLES, PROMPT, NEW = 4, 6, 250, 48


def load(folder, name):
    path = folder / f"{name}.json"
    return json.loads(path.read_text()) if path.exists() and path.stat().st_size else None


def row(what, ours, theirs, unit, smaller_is_better):
    if ours is None or theirs is None:
        return
    ratio = theirs / ours if smaller_is_better else ours / theirs
    print(f"{what:34s} {ours:10.2f} {theirs:10.2f} {unit:9s} {ratio:6.2f} x")


def main(folder):
    ours, torch, llama = (load(folder, name) for name in ("medrl", "torch", "llamacpp"))
    print(f"medrl: {ours['device']}, {ours['threads']} threads")
    print(f"{'':34s} {'medrl':>10s} {'peer':>10s} {'':9s} {'ratio':>8s}")
    if llama:
        print(llama["peer"])
        row("prompt of 256", ours["prefill_256_tok_s"], llama["prefill_256_tok_s"], "tok/s", False)
        for n in (1, 6, 24):
            row(f"decode, batch {n}", ours[f"decode_{n}_tok_s"], llama[f"decode_{n}_tok_s"], "tok/s", False)
    if torch:
        print(torch["peer"])
        rollout = ours.get("rollout_s")
        train = ours.get("train_s", ours["train_pack_s"])
        how = "measured"
        if rollout is None:
            how = "from bench's rates"
            rollout = GROUPS * PROMPT / ours["prefill_256_tok_s"]
            rollout += SAMPLES * GROUPS * (NEW - 1) / ours["decode_24_tok_s"]
        row(f"rollout ({how})", rollout, torch["rollout_s"], "s", True)
        row("training", train, torch["train_s"], "s", True)
        row(f"GRPO step ({how})", ours.get("step_s", rollout + train), torch["step_s"], "s", True)
        row("peak RSS", ours["rss_peak_bytes"] / 1e6, torch["rss_peak_mb"] * 1.048576, "MB", True)


main(pathlib.Path(sys.argv[1]))
