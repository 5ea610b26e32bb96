"""SmolLM2 (arch llama) in plain PyTorch from its GGUF file: what the peers of tests/bench share.

Weights are dequantized by the package gguf and kept in bf16, LoRA pairs are f32 and applied at run time or merged
for sampling. A forward takes rows of tokens without padding and a function that does the attention, so that the
caller decides who sees whom. The path "random" stands for random weights of SmolLM2-135M's shape, without a file.
"""
import torch
import torch.nn.functional as F

PROJ = ("q", "k", "v", "o", "gate", "up", "down")
GGUF_NAME = dict(zip(PROJ, ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")))


class Model:
    def __init__(self, path, dtype=torch.bfloat16):
        if path == "random":
            self.make(dtype)
            return
        import gguf
        import numpy

        reader = gguf.GGUFReader(path)
        meta = lambda key: reader.fields["llama." + key].contents()
        self.dtype = dtype
        self.n_layers = meta("block_count")
        self.n_heads, self.n_kv = meta("attention.head_count"), meta("attention.head_count_kv")
        self.eps = meta("attention.layer_norm_rms_epsilon")
        self.d = meta("embedding_length") // self.n_heads
        self.inv_freq = meta("rope.freq_base") ** (-torch.arange(0, self.d, 2).float() / self.d)
        raw = {t.name: t for t in reader.tensors}

        def load(name):
            t = raw[name + ".weight"]
            return torch.from_numpy(gguf.dequantize(t.data, t.tensor_type).astype(numpy.float32)).to(dtype)

        def halves(w, heads):  # the converter interleaved the halves of each head for arch llama
            return w.view(heads, self.d // 2, 2, -1).transpose(1, 2).reshape(w.shape).contiguous()

        self.embed, self.norm = load("token_embd"), load("output_norm")
        self.layers = []
        for i in range(self.n_layers):
            layer = {p: load(f"blk.{i}.{GGUF_NAME[p]}") for p in PROJ}
            layer["q"], layer["k"] = halves(layer["q"], self.n_heads), halves(layer["k"], self.n_kv)
            layer["norm1"], layer["norm2"] = load(f"blk.{i}.attn_norm"), load(f"blk.{i}.ffn_norm")
            self.layers.append(layer)
        self.lora, self.scale = None, 0.0

    def make(self, dtype):
        self.dtype, self.n_layers, self.n_heads, self.n_kv, self.eps, self.d = dtype, 30, 9, 3, 1e-5, 64
        self.inv_freq = 100000.0 ** (-torch.arange(0, self.d, 2).float() / self.d)
        c, f, kv = self.n_heads * self.d, 1536, self.n_kv * self.d
        shapes = dict(q=(c, c), k=(kv, c), v=(kv, c), o=(c, c), gate=(f, c), up=(f, c), down=(c, f))
        self.embed, self.norm = (torch.randn(49152, c) * 0.02).to(dtype), torch.ones(c, dtype=dtype)
        self.layers = []
        for _ in range(self.n_layers):
            layer = {p: (torch.randn(shapes[p]) * 0.02).to(dtype) for p in PROJ}
            layer["norm1"], layer["norm2"] = torch.ones(c, dtype=dtype), torch.ones(c, dtype=dtype)
            self.layers.append(layer)
        self.lora, self.scale = None, 0.0

    def add_lora(self, r, alpha):
        self.scale = alpha / r
        self.lora = []
        for layer in self.layers:
            pairs = {}
            for p in PROJ:
                out, inp = layer[p].shape
                a = torch.empty(r, inp).uniform_(-(inp**-0.5), inp**-0.5)
                pairs[p] = (a.requires_grad_(), torch.zeros(out, r).requires_grad_())
            self.lora.append(pairs)
        return [x for pairs in self.lora for pair in pairs.values() for x in pair]

    def merged(self):
        """The weights with the adapter inside, for sampling without it."""
        with torch.no_grad():
            return [
                {p: (l[p] + (self.scale * (m[p][1] @ m[p][0])).to(self.dtype)) if p in PROJ else l[p] for p in l}
                for l, m in zip(self.layers, self.lora)
            ]

    def rope(self, x, cos, sin):
        a, b = x.chunk(2, -1)
        return torch.cat((a * cos - b * sin, b * cos + a * sin), -1)

    def forward(self, ids, pos, attend, layers=None):
        """ids, pos [N] -> final normed rows [N, C]. attend(layer, q [N,H,d], k, v [N,K,d]) -> [N, H*d].
        layers: merged weights, or None for the own ones with the adapter at run time."""
        angle = pos.float()[:, None] * self.inv_freq
        cos, sin = angle.cos()[:, None].to(self.dtype), angle.sin()[:, None].to(self.dtype)
        x = self.embed[ids]
        for i, w in enumerate(layers or self.layers):
            def linear(x, p):
                y = F.linear(x, w[p])
                if layers is None and self.lora is not None:
                    a, b = self.lora[i][p]
                    y = y + F.linear(F.linear(x, a.to(self.dtype)), b.to(self.dtype)) * self.scale
                return y

            h = F.rms_norm(x, x.shape[-1:], w["norm1"], self.eps)
            q = self.rope(linear(h, "q").view(-1, self.n_heads, self.d), cos, sin)
            k = self.rope(linear(h, "k").view(-1, self.n_kv, self.d), cos, sin)
            v = linear(h, "v").view(-1, self.n_kv, self.d)
            x = x + linear(attend(i, q, k, v), "o")
            h = F.rms_norm(x, x.shape[-1:], w["norm2"], self.eps)
            x = x + linear(F.silu(linear(h, "gate")) * linear(h, "up"), "down")
        return F.rms_norm(x, x.shape[-1:], self.norm, self.eps)

    def logits(self, rows):
        return F.linear(rows, self.embed).float()


def attention(q, k, v, mask=None, causal=False):
    """q [B,H,T,d], k and v [B,K,S,d]: grouped heads, so that keys are not copied for each query head."""
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal, enable_gqa=True)


def attention_one(q, k, v, mask):
    """One query a sequence, q [B,H,d]: the query heads of a key head as its queries, which is six times as fast."""
    q = q.view(q.shape[0], k.shape[1], -1, q.shape[-1])
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask).reshape(q.shape[0], -1)
