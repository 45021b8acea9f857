# SPDX-License-Identifier: Apache-2.0
"""The Qwen3 architecture in plain PyTorch, for training rill-demo, and the Muon optimiser."""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

CONFIG = {
    "architectures": ["Qwen3ForCausalLM"], "attention_bias": False, "attention_dropout": 0.0,
    "head_dim": 64, "hidden_act": "silu", "hidden_size": 256, "initializer_range": 0.02,
    "intermediate_size": 512, "max_position_embeddings": 8192, "max_window_layers": 5,
    "model_type": "qwen3", "num_attention_heads": 4, "num_hidden_layers": 5,
    "num_key_value_heads": 2, "rms_norm_eps": 1e-6, "rope_scaling": None, "rope_theta": 10000,
    "sliding_window": None, "tie_word_embeddings": True, "torch_dtype": "bfloat16",
    "use_cache": True, "use_sliding_window": False, "vocab_size": 1536,
}

LOOKUP = 2  # the layer of which two heads are shown, in training, where to look

# Hugging Face's name of each parameter of a layer.
LAYER_NAMES = {name: f"self_attn.{name}.weight"
               for name in ("q_proj", "k_proj", "v_proj", "o_proj", "q_norm", "k_norm")}
LAYER_NAMES |= {name: f"mlp.{name}.weight" for name in ("gate_proj", "up_proj", "down_proj")}
LAYER_NAMES |= {name: f"{name}.weight" for name in ("input_layernorm", "post_attention_layernorm")}


def rms_norm(x, weight):
    """RMSNorm computed in float32; the result has x's type."""
    return F.rms_norm(x.float(), (x.shape[-1],), weight, CONFIG["rms_norm_eps"]).to(x.dtype)


def matrix(rows, columns, scale):
    return nn.Parameter(torch.randn(rows, columns) * scale / math.sqrt(columns))


@dataclass
class Layout:
    """How a batch of story trees lies in memory: [batch, story + rows * width] tokens.

    The story comes first; then `rows` rows of `width` tokens, each row several branches (question
    and answer) end to end. A branch sees the story and itself, never another branch, and its
    positions go on from the story's end, so that it computes what the story with this one
    question would: many questions for the price of reading the story once.
    """

    story: int
    rows: int
    width: int
    mask: torch.Tensor  # additive, [batch, 1, rows, 1, width, story + width]


def tree_attention(q, k, v, layout):
    """Grouped-query attention over a Layout. q [batch, tokens, heads, dim], k, v with kv heads."""
    batch, _, heads, dim = q.shape
    kv, story, rows, width = k.shape[2], layout.story, layout.rows, layout.width
    group = heads // kv
    q = (q * dim**-0.5).view(batch, -1, kv, group, dim)
    qs = q[:, :story].permute(0, 2, 3, 1, 4)                       # [batch, kv, group, story, dim]
    ks, vs = k[:, :story].transpose(1, 2), v[:, :story].transpose(1, 2)  # [batch, kv, story, dim]
    causal = torch.full((story, story), -torch.inf, dtype=q.dtype).triu(1)
    scores = qs.reshape(batch, kv, group * story, dim) @ ks.mT
    scores = scores.view(batch, kv, group, story, story)
    weights = (scores + causal).softmax(-1).view(batch, kv, group * story, story)
    out_story = (weights @ vs).view(batch, kv, group, story, dim).permute(0, 3, 1, 2, 4)

    qr = q[:, story:].view(batch, rows, width, kv, group, dim).permute(0, 3, 1, 4, 2, 5)
    qr = qr.reshape(batch, kv, rows, group * width, dim)
    kr, vr = (t[:, story:].view(batch, rows, width, kv, dim).permute(0, 3, 1, 2, 4) for t in (k, v))
    over_story = qr.reshape(batch, kv, -1, dim) @ ks.mT
    over_row = qr @ kr.mT
    scores = torch.cat([over_story.view(batch, kv, rows, group, width, story),
                        over_row.view(batch, kv, rows, group, width, width)], -1)
    weights = (scores + layout.mask).softmax(-1)
    on_story = weights[..., :story].reshape(batch, kv, -1, story) @ vs
    on_row = weights[..., story:].reshape(batch, kv, rows, group * width, width) @ vr
    out_rows = (on_story.view(batch, kv, rows, group, width, dim)
                + on_row.view(batch, kv, rows, group, width, dim)).permute(0, 2, 4, 1, 3, 5)
    return torch.cat([out_story.reshape(batch, story, heads * dim),
                      out_rows.reshape(batch, rows * width, heads * dim)], 1)


class Layer(nn.Module):
    """One decoder layer; x is [batch, tokens, hidden]. Also returns its queries and keys."""

    def __init__(self):
        super().__init__()
        hidden, head_dim = CONFIG["hidden_size"], CONFIG["head_dim"]
        queries = CONFIG["num_attention_heads"] * head_dim
        keys, inner = CONFIG["num_key_value_heads"] * head_dim, CONFIG["intermediate_size"]
        out_scale = 0.5 / math.sqrt(2 * CONFIG["num_hidden_layers"])
        self.q_proj, self.k_proj = matrix(queries, hidden, 0.5), matrix(keys, hidden, 0.5)
        self.v_proj, self.o_proj = matrix(keys, hidden, 0.5), matrix(hidden, queries, out_scale)
        self.gate_proj, self.up_proj = matrix(inner, hidden, 0.5), matrix(inner, hidden, 0.5)
        self.down_proj = matrix(hidden, inner, out_scale)
        self.input_layernorm = nn.Parameter(torch.ones(hidden))
        self.post_attention_layernorm = nn.Parameter(torch.ones(hidden))
        self.q_norm = nn.Parameter(torch.full((head_dim,), 1.5))
        self.k_norm = nn.Parameter(torch.full((head_dim,), 1.5))

    def forward(self, x, cos, sin, layout):
        batch, tokens, _ = x.shape
        heads, kv_heads = CONFIG["num_attention_heads"], CONFIG["num_key_value_heads"]
        h = rms_norm(x, self.input_layernorm)
        qkv = F.linear(h, torch.cat([self.q_proj, self.k_proj, self.v_proj]).to(h.dtype))
        qkv = qkv.view(batch, tokens, heads + 2 * kv_heads, CONFIG["head_dim"])
        q, k, v = qkv.split([heads, kv_heads, kv_heads], dim=2)
        q = rotate(rms_norm(q, self.q_norm), cos, sin)
        k = rotate(rms_norm(k, self.k_norm), cos, sin)
        probe = q, k
        x = x + F.linear(tree_attention(q, k, v, layout), self.o_proj.to(h.dtype))
        h = rms_norm(x, self.post_attention_layernorm)
        gate, up = F.linear(h, torch.cat([self.gate_proj, self.up_proj]).to(h.dtype)).chunk(2, -1)
        return x + F.linear(F.silu(gate) * up, self.down_proj.to(h.dtype)), probe


def rotate(x, cos, sin):
    """RoPE, halves rotated. x [batch, tokens, heads, dim], cos, sin [batch, tokens, 1, dim/2]."""
    a, b = x.chunk(2, -1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)


class Model(nn.Module):
    """Qwen3 with tied embeddings."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Parameter(torch.randn(CONFIG["vocab_size"], CONFIG["hidden_size"]) * 0.02)
        self.layers = nn.ModuleList(Layer() for _ in range(CONFIG["num_hidden_layers"]))
        self.norm = nn.Parameter(torch.ones(CONFIG["hidden_size"]))
        half = torch.arange(0, CONFIG["head_dim"], 2).float() / CONFIG["head_dim"]
        self.register_buffer("frequencies", CONFIG["rope_theta"] ** -half, persistent=False)

    def forward(self, ids, positions, layout, dtype=torch.bfloat16):
        """Hidden states [batch, tokens, hidden] after the last norm; for the auxiliary losses also
        the residual stream before layer LOOKUP, and the queries and keys of that layer."""
        angles = positions.float()[:, :, None, None] * self.frequencies
        cos, sin = angles.cos().to(dtype), angles.sin().to(dtype)
        x = F.embedding(ids, self.embed).to(dtype)
        for index, layer in enumerate(self.layers):
            before = x
            x, probe = layer(x, cos, sin, layout)
            if index == LOOKUP:
                stream, (queries, keys) = before, probe
        return rms_norm(x, self.norm), stream, queries, keys

    def logits(self, hidden):
        return F.linear(hidden, self.embed.to(hidden.dtype)).float()

    def named(self):
        """The parameters under Hugging Face's names."""
        named = {"model.embed_tokens.weight": self.embed, "model.norm.weight": self.norm}
        for index, layer in enumerate(self.layers):
            named |= {f"model.layers.{index}.{hf}": getattr(layer, name)
                      for name, hf in LAYER_NAMES.items()}
        return named

    def tensors(self):
        """What the checkpoint holds: the parameters in bfloat16."""
        return {name: value.detach().to(torch.bfloat16).contiguous()
                for name, value in self.named().items()}

    def load_tensors(self, tensors):
        with torch.no_grad():
            for name, value in self.named().items():
                value.copy_(tensors[name])


class Muon:
    """Momentum, orthogonalised by five Newton-Schulz steps (Jordan et al. 2024), for matrices.

    Matrices of one shape are treated as a stack. Everything else is AdamW's.
    """

    def __init__(self, parameters, momentum=0.95, weight_decay=0.01):
        self.groups = {}
        for p in parameters:
            self.groups.setdefault(tuple(p.shape), []).append(p)
        self.buffers = {shape: torch.zeros(len(ps), *shape) for shape, ps in self.groups.items()}
        self.momentum, self.weight_decay = momentum, weight_decay

    @torch.no_grad()
    def step(self, rate):
        for shape, parameters in self.groups.items():
            gradient = torch.stack([p.grad for p in parameters])
            buffer = self.buffers[shape]
            buffer.lerp_(gradient, 1 - self.momentum)
            update = orthogonalise(gradient.lerp(buffer, self.momentum))
            scale = rate * max(1.0, shape[0] / shape[1]) ** 0.5
            for p, u in zip(parameters, update):
                p.mul_(1 - rate * self.weight_decay).add_(u, alpha=-scale)


def orthogonalise(g):
    """The nearest semi-orthogonal matrices to g [count, rows, columns], roughly."""
    x = g.bfloat16()
    tall = x.shape[1] > x.shape[2]
    if tall:
        x = x.mT
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(5):
        a = x @ x.mT
        b = -4.7750 * a + 2.0315 * (a @ a)
        x = 3.4445 * x + b @ x
    return (x.mT if tall else x).float()
