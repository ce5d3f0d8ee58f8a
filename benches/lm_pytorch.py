"""The work of benches/lm.rs, written by hand in PyTorch: the same model, sizes and parts.

    pip install torch
    python benches/lm_pytorch.py 20          the best of 20 rounds

Two threads. The prompt is encoded once for its group when sampling, keys and values stand
in memory reserved in advance, and nothing is recorded there (inference_mode). Attention is
scaled_dot_product_attention and AdamW the fused one: the faster choices on this work.

Left out: Hugging Face's generate, which is slower than this loop.
"""

import sys
import time

import torch
import torch.nn.functional as F

PROMPTS, GROUP, PROMPT, NEW = 8, 8, 12, 24
D, LAYERS, HEADS, FF, VOCAB = 128, 4, 4, 384, 64
HEAD = D // HEADS
THREADS = 2


def parameters():
    def weight(*shape):
        return torch.nn.Parameter(torch.randn(*shape) / shape[-1] ** 0.5)

    def layer():
        return {
            "norm1": torch.nn.Parameter(torch.ones(D)),
            "qkv": weight(3 * D, D),
            "bias": torch.nn.Parameter(torch.zeros(3 * D)),
            "o": weight(D, D),
            "norm2": torch.nn.Parameter(torch.ones(D)),
            "gate_up": weight(2 * FF, D),
            "down": weight(D, FF),
        }

    embedding = torch.nn.Parameter(0.02 * torch.randn(VOCAB, D))
    return embedding, [layer() for _ in range(LAYERS)], torch.nn.Parameter(torch.ones(D))


def turn(x, cos, sin):
    a, b = x.chunk(2, -1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), -1)


def angles(length):
    frequencies = 10_000.0 ** (-torch.arange(0, HEAD, 2) / HEAD)
    angle = torch.arange(length)[:, None] * frequencies
    return angle.cos(), angle.sin()


def forward(model, tokens, start=0, cache=None):
    """Tokens (B, T) after the first `start` -> (B, T, D). cache: (layers, 2, B, H, S, d)."""
    embedding, layers, last = model
    batch, length = tokens.shape
    cos, sin = COS[start : start + length], SIN[start : start + length]
    x = embedding[tokens]
    for i, layer in enumerate(layers):
        normed = F.rms_norm(x, (D,), layer["norm1"], 1e-6)
        qkv = F.linear(normed, layer["qkv"], layer["bias"])
        q, k, v = qkv.view(batch, length, 3, HEADS, HEAD).permute(2, 0, 3, 1, 4)
        q, k = turn(q, cos, sin), turn(k, cos, sin)
        if cache is not None:
            keys, values = cache[i]
            keys[:, :, start : start + length] = k
            values[:, :, start : start + length] = v
            k, v = keys[:, :, : start + length], values[:, :, : start + length]
        seen = F.scaled_dot_product_attention(q, k, v, is_causal=length > 1)
        x = x + F.linear(seen.transpose(1, 2).reshape(batch, length, D), layer["o"])
        normed = F.rms_norm(x, (D,), layer["norm2"], 1e-6)
        gate, up = F.linear(normed, layer["gate_up"]).chunk(2, -1)
        x = x + F.linear(F.silu(gate) * up, layer["down"])
    return F.rms_norm(x, (D,), last, 1e-6)


@torch.inference_mode()
def sample(model):
    """-> prompts (B, L), completions (B, T) and their log-probabilities (B, T)."""
    prompts = torch.tensor([[(7 * p + t) % 64 for t in range(PROMPT)] for p in range(PROMPTS)])
    rows = PROMPTS * GROUP
    first = torch.zeros(LAYERS, 2, PROMPTS, HEADS, PROMPT, HEAD)
    hidden = forward(model, prompts, 0, first)[:, -1].repeat_interleave(GROUP, 0)
    cache = torch.empty(LAYERS, 2, rows, HEADS, PROMPT + NEW - 1, HEAD)
    cache[:, :, :, :, :PROMPT] = first.repeat_interleave(GROUP, 2)
    tokens, log_probs = torch.empty(rows, NEW, dtype=torch.long), torch.empty(rows, NEW)
    for t in range(NEW):
        logits = F.log_softmax(F.linear(hidden, model[0]), -1)
        drawn = torch.multinomial(logits.exp(), 1)
        tokens[:, t : t + 1] = drawn
        log_probs[:, t : t + 1] = logits.gather(1, drawn)
        if t + 1 < NEW:
            hidden = forward(model, drawn, PROMPT + t, cache)[:, 0]
    return prompts.repeat_interleave(GROUP, 0), tokens, log_probs


def score(model, prompts, tokens):
    """Log-probabilities of the completions (B, T)."""
    sequences = torch.cat((prompts, tokens[:, :-1]), 1)
    hidden = forward(model, sequences)[:, PROMPT - 1 :]
    logits = F.log_softmax(F.linear(hidden, model[0]), -1)
    return logits.gather(2, tokens[:, :, None]).squeeze(2)


def descend(loss, everything, optimizer):
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(everything, 1.0)
    optimizer.step()


def train(model, everything, optimizer, prompts, tokens):
    descend(-score(model, prompts, tokens).mean(), everything, optimizer)


def step(model, everything, optimizer):
    """Sample, compare within groups, and take one clipped step of GRPO."""
    prompts, tokens, old = (x.clone() for x in sample(model))
    rewards = torch.tensor([row * 7 % 5 for row in range(PROMPTS * GROUP)]).float()
    groups = rewards.view(PROMPTS, GROUP)
    advantages = groups - groups.mean(1, keepdim=True)
    advantages = (advantages / (groups.std(1, keepdim=True) + 1e-4)).view(-1, 1)
    ratio = (score(model, prompts, tokens) - old).exp()
    gain = torch.minimum(ratio * advantages, ratio.clamp(0.8, 1.2) * advantages)
    descend(-gain.mean(1).mean(), everything, optimizer)


def main():
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 10
    torch.set_num_threads(THREADS)
    torch.manual_seed(0)
    model = parameters()
    everything = [model[0], *(w for layer in model[1] for w in layer.values()), model[2]]
    assert sum(w.numel() for w in everything) == 862_848
    optimizer = torch.optim.AdamW(everything, lr=1e-6, fused=True)
    prompts, tokens, _ = (x.clone() for x in sample(model))

    @torch.inference_mode()
    def scored():
        score(model, prompts, tokens)

    parts = {
        "sample": lambda: sample(model),
        "score": scored,
        "train": lambda: train(model, everything, optimizer, prompts, tokens),
        "step": lambda: step(model, everything, optimizer),
    }
    best = dict.fromkeys(parts, float("inf"))
    for _ in range(rounds + 2):
        for name, part in parts.items():
            began = time.perf_counter()
            part()
            best[name] = min(best[name], time.perf_counter() - began)
    print(f"{'best of':28}{f'{THREADS} threads, ms':>16}{'tokens/s':>14}")
    for name, seconds in best.items():
        tokens_per_second = PROMPTS * GROUP * NEW / seconds
        print(f"{name:28}{1e3 * seconds:16.1f}{tokens_per_second:14.0f}")


COS, SIN = angles(PROMPT + NEW)

if __name__ == "__main__":
    main()
