"""Prints medrl and its peers side by side: compare.py DIR, with medrl.json, and torch.json and llamacpp.json where
they ran. A ratio above 1 means that medrl is faster (or smaller). Only the standard library is used.
"""
import json
import pathlib
import sys


def load(folder, name):
    path = folder / f"{name}.json"
    return json.loads(path.read_text()) if path.exists() and path.stat().st_size else {}


def row(what, ours, theirs, unit, smaller_is_better):
    if ours is None:
        return
    if theirs is None:
        print(f"{what:36s} {ours:10.2f} {'-':>10s} {unit}")
        return
    ratio = theirs / ours if smaller_is_better else ours / theirs
    print(f"{what:36s} {ours:10.2f} {theirs:10.2f} {unit:9s} {ratio:6.2f} x")


def main(folder):
    ours, torch, llama = (load(folder, name) for name in ("medrl", "torch", "llamacpp"))
    print(f"medrl: {ours['device']}, {ours['compute']} products")
    for name, peer in (("llama.cpp", llama), ("PyTorch", torch)):
        print(f"{name}: {peer.get('peer', 'did not run')}")
    print(f"{'':36s} {'medrl':>10s} {'peer':>10s} {'':9s} {'ratio':>8s}")
    rate = lambda what, key: row(what, ours[key], llama.get(key), "tokens/s", False)
    rate("prefill, a prompt of 256", "prefill_256_tok_s")
    for n in (1, 6, 24):
        rate(f"decode, {n} at once", f"decode_{n}_tok_s")
    seconds = lambda what, key, theirs=None: row(what, ours[key], torch.get(theirs or key), "s", True)
    seconds("GRPO step", "step_s")
    seconds("  rollout", "rollout_s")
    if torch:
        seconds("  rollout, peer with merged weights", "rollout_s", "rollout_merged_s")
    seconds("  training", "train_s")
    rss = torch.get("rss_peak_mb")
    row("memory, at most", ours["rss_peak_bytes"] / 1e6, rss and rss * 1.048576, "MB", True)
    row("start to the first token", ours["first_token_s"], None, "s", True)


main(pathlib.Path(sys.argv[1]))
