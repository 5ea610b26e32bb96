"""One GRPO step after another in plain PyTorch: the loop that `medrl bench` is compared with.

  python torch_grpo.py MODEL.gguf|random [--steps 3] [--threads 2] -> one line of JSON

The work of one step is that of `medrl bench`: 4 prompts of 250 random tokens, 6 completions of exactly 48 tokens each
(no early end), bf16 products, f32 LoRA r=16 alpha=32 on the seven linears, temperature 1; rollout with a KV cache, all
24 rows in one batch, the prompt computed once per group; training with the prompt once per group, logits at completion
positions only, one clipped AdamW update. The reward is the share of even ids. rollout_merged_s is a rollout from
merged weights: fewer products, but not quite the numbers that training computes. RSS: the peak after loading, since
loading dequantizes through f32.
"""
import argparse
import json
import os
import resource
import statistics
import time

import torch

from smollm2 import Model, attention, attention_one


def reset_peak():
    try:
        with open("/proc/self/clear_refs", "w") as f:
            f.write("5")
    except OSError:
        pass


def peak_mb():
    for line in open("/proc/self/status"):
        if line.startswith("VmHWM"):
            return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


@torch.no_grad()
def rollout(model, prompts, group, n_new, merge):
    """Samples group completions of n_new tokens for each prompt -> ids [P, G, T] and their log-probabilities."""
    n_rows, longest = len(prompts) * group, max(map(len, prompts))
    layers = model.merged() if merge else None
    shape = (n_rows, model.n_kv, longest + n_new, model.d)
    keys = [torch.zeros(shape, dtype=model.dtype) for _ in model.layers]
    values = [torch.zeros(shape, dtype=model.dtype) for _ in model.layers]
    first = []
    for p, prompt in enumerate(prompts):
        n, rows = len(prompt), slice(p * group, (p + 1) * group)

        def prefill(i, q, k, v):
            q, k, v = (x.transpose(0, 1)[None] for x in (q, k, v))
            keys[i][rows, :, :n], values[i][rows, :, :n] = k, v
            return attention(q, k, v, causal=True)[0].transpose(0, 1).reshape(n, -1)

        first.append(model.logits(model.forward(prompt, torch.arange(n), prefill, layers)[-1:]).expand(group, -1))
    logits = torch.cat(first)
    length = torch.tensor([len(p) for p in prompts]).repeat_interleave(group)
    every = torch.arange(n_rows)
    ids, logps = [], []
    for t in range(n_new):
        # by the inverse of the distribution: torch.multinomial draws a random number for every token of the vocabulary
        p = torch.softmax(logits, -1)
        total = p.cumsum(-1)
        picked = torch.searchsorted(total, torch.rand(n_rows, 1) * total[:, -1:]).clamp(max=p.shape[-1] - 1)
        ids.append(picked[:, 0])
        logps.append(p.gather(1, picked)[:, 0].log())
        if t == n_new - 1:
            break
        at = length + t
        seen = int(at.max()) + 1
        mask = (torch.arange(seen) <= at[:, None])[:, None, None]

        def decode(i, q, k, v):
            keys[i][every, :, at], values[i][every, :, at] = k, v
            return attention_one(q, keys[i][:, :, :seen], values[i][:, :, :seen], mask)

        logits = model.logits(model.forward(ids[-1], at, decode, layers))
    split = lambda x: torch.stack(x, 1).view(len(prompts), group, n_new)
    return split(ids), split(logps)


def group_loss(model, prompt, ids, logp_old, adv, n_tokens):
    """The group as [prompt | G completions]: linears over all rows, a completion attends to the prompt and itself."""
    n, group, t = len(prompt), len(ids), ids.shape[1] - 1  # nothing is predicted by the last token
    pos = torch.cat((torch.arange(n), (n + torch.arange(t)).repeat(group)))
    mask = torch.ones(t, n + t, dtype=torch.bool).tril(n)

    def attend(_, q, k, v):
        heads = lambda x: x[:n].transpose(0, 1)[None]
        tails = lambda x: x[n:].view(group, t, -1, model.d).transpose(1, 2)
        own = attention(heads(q), heads(k), heads(v), causal=True)[0].transpose(0, 1).reshape(n, -1)
        k, v = (torch.cat((heads(x).expand(group, -1, -1, -1), tails(x)), 2) for x in (k, v))
        rest = attention(tails(q), k, v, mask).transpose(1, 2).reshape(group * t, -1)
        return torch.cat((own, rest))

    rows = model.forward(torch.cat((prompt, ids[:, :-1].reshape(-1))), pos, attend)
    # token 0 of every completion comes from the prompt's last row, token t from the completion's row t-1
    source = torch.cat((rows[n - 1].expand(group, 1, -1), rows[n:].view(group, t, -1)), 1)
    logp = torch.log_softmax(model.logits(source), -1).gather(2, ids[:, :, None])[:, :, 0]
    ratio = (logp - logp_old).exp()
    surrogate = torch.min(ratio * adv[:, None], ratio.clamp(0.8, 1.2) * adv[:, None])
    return -surrogate.sum() / n_tokens, (logp - logp_old).abs().max().item()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("gguf")
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--no-merged", action="store_true", help="leave out rollouts from merged weights")
    parser.add_argument("--prompts", type=int, default=4)
    parser.add_argument("--group", type=int, default=6)
    parser.add_argument("--new", type=int, default=48)
    parser.add_argument("--prompt-tokens", type=int, default=250)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(3407)

    begin = time.perf_counter()
    model = Model(args.gguf)
    params = model.add_lora(r=16, alpha=32)
    optimizer = torch.optim.AdamW(params, lr=3e-4, betas=(0.9, 0.99), weight_decay=0.0)
    load_s = time.perf_counter() - begin
    load_mb = peak_mb()
    reset_peak()

    times = {"rollout_s": [], "train_s": [], "step_s": []}
    drift = 0.0
    for step in range(args.steps + 1):  # the first step warms up and is not counted
        prompts = [torch.randint(17, model.embed.shape[0], (args.prompt_tokens,)) for _ in range(args.prompts)]
        begin = time.perf_counter()
        ids, logp_old = rollout(model, prompts, args.group, args.new, False)
        middle = time.perf_counter()
        rewards = (ids % 2 == 0).float().mean(-1)
        adv = (rewards - rewards.mean(1, keepdim=True)) / (rewards.std(1, keepdim=True) + 1e-4)
        for p in range(args.prompts):
            loss, gap = group_loss(model, prompts[p], ids[p], logp_old[p], adv[p], ids.numel())
            loss.backward()
            drift = max(drift, gap)
        torch.nn.utils.clip_grad_norm_(params, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        end = time.perf_counter()
        if step:
            for key, s in zip(times, (middle - begin, end - middle, end - begin)):
                times[key].append(s)
    rss_peak_mb = peak_mb()
    times["rollout_merged_s"] = []
    for _ in range(0 if args.no_merged else min(args.steps, 2)):
        begin = time.perf_counter()
        rollout(model, prompts, args.group, args.new, True)
        times["rollout_merged_s"].append(time.perf_counter() - begin)
    result = {k: round(statistics.median(v), 3) for k, v in times.items() if v}
    result.update(
        peer=f"torch {torch.__version__} bf16",
        threads=args.threads, steps=args.steps, step_s_all=[round(x, 3) for x in times["step_s"]],
        generated_tok=args.prompts * args.group * args.new, load_s=round(load_s, 2), rss_load_mb=round(load_mb),
        rss_peak_mb=round(rss_peak_mb), largest_logp_drift=round(drift, 4),
    )
    print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
