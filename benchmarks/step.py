"""A training step against Hugging Face's Llama, and whether low precision learns as well.

A step is: forward, loss, backward, clipping, AdamW, on a batch that is drawn already. The peer has
our weights, the same optimizer, eager fp32, no key-value cache, and the faster of its two attention
implementations. Both sides run in turn in one process, in which freed memory is kept (see
trainable/hardware/allocator.py): the peer gains from that, too.
"""

import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import nn

from benchmarks.llama import llama, peer_installed
from benchmarks.measure import (
    Bar,
    Clock,
    Row,
    interleave,
    middle,
    peak_flops,
    precisions,
    quartiles,
    ratio,
)
from trainable.config.trial import ModelConfig, OptimConfig, TrainConfig
from trainable.hardware.allocator import keep_freed_memory
from trainable.model.counts import flops_per_token
from trainable.model.transformer import Transformer, next_token_loss
from trainable.passes.forms import Passes, build_passes
from trainable.training.optim import build_optimizer, learning_rate, set_learning_rate

PEER = "x HF Llama eager fp32"
ALONE = "GFLOP/s; transformers is not installed: no peer"
LAYERS, HEAD_DIM = 4, 32
LEARNING_STEPS = 500
BF16_BARS = {"bf16 eager": 1.6, "bf16 compile": 2.2}

Forms = dict[str, TrainConfig]


@dataclass(frozen=True)
class Case:
    """One shape."""

    d_model: int
    batch: int
    context: int
    vocab: int

    def __str__(self) -> str:
        return f"d{self.d_model} {self.batch}x{self.context} V{self.vocab}"

    @property
    def model(self) -> ModelConfig:
        """The model's config."""
        return ModelConfig(
            d_model=self.d_model,
            n_layers=LAYERS,
            head_dim=HEAD_DIM,
            context_length=self.context,
        )

    @property
    def flops(self) -> int:
        """Floating-point operations of a step."""
        return self.batch * self.context * flops_per_token(self.model, self.vocab)


CPU = [
    Case(d_model, batch, context, vocab)
    for vocab in (257, 4_096)
    for batch, context in ((32, 128), (16, 256))
    for d_model in (64, 128, 256)
]
CPU_SHORT = [Case(128, 32, 128, 257), Case(256, 16, 256, 4_096)]
GPU = [Case(d_model, 64, context, 10_000) for context in (256, 1_024) for d_model in (512, 1_024)]


def rows(short: bool) -> Iterator[Row]:
    """Yield the speed of each shape, then the losses."""
    keep_freed_memory()
    torch.set_num_threads(1)
    cpu = torch.device("cpu")
    if peer_installed():
        same_model(cpu)
    for case in CPU_SHORT if short else CPU:
        # What is compiled gains where products are in bf16; else two shapes show how little.
        compiled = not short and ("bf16" in precisions(cpu) or case in CPU_SHORT)
        yield from speeds(case, cpu, rounds=5 if short else 11, compiled=compiled)
    if torch.cuda.is_available():
        for case in GPU[:1] if short else GPU:
            yield from speeds(case, torch.device("cuda"), rounds=11, compiled=not short)
    yield from losses(100 if short else LEARNING_STEPS)


def forms(device: torch.device, precisions: tuple[str, ...], compiled: bool = False) -> Forms:
    """Return our forms by name: on a GPU torch's own attention, on a CPU the fused passes.

    The last of the precisions is also there compiled, and on a CPU by autograd through the modules.
    """
    shared = {
        "attention": "sdpa" if device.type == "cuda" else "products",
        "compile": "never",
        "device": device.type,
    }
    named = {
        f"{precision} eager": TrainConfig.model_validate({"precision": precision, **shared})
        for precision in precisions
    }
    last = named[f"{precisions[-1]} eager"]
    if device.type == "cpu":
        named[f"{precisions[-1]} plain"] = last.model_copy(update={"attention": "plain"})
    if compiled:
        named[f"{precisions[-1]} compile"] = last.model_copy(update={"compile": "always"})
    return named


def speeds(case: Case, device: torch.device, rounds: int, compiled: bool) -> Iterator[Row]:
    """Yield a row for each of our forms."""
    draws = torch.Generator().manual_seed(0)
    x, y = torch.randint(0, case.vocab, (2, case.batch, case.context), generator=draws).to(device)
    configs = forms(device, precisions(device), compiled)
    sides = {name: _our_step(case, config, device, x, y) for name, config in configs.items()}
    if peer_installed():
        sides |= {kind: _peer_step(case, kind, device, x, y) for kind in ("sdpa", "eager")}
    taken = interleave(sides, rounds, _clock(device), warm_up=3)
    for name, config in configs.items():
        bar = Bar()
        if name == "fp32 eager":
            bar = Bar(at_least=1.0)
        elif name in BF16_BARS and case.d_model >= 128:
            bar = Bar(at_least=BF16_BARS[name])
        speed = case.flops / statistics.median(taken[name])
        dtype = torch.bfloat16 if config.precision == "bf16" else torch.float32
        if peer_installed():
            peer = min(("sdpa", "eager"), key=lambda kind: statistics.median(taken[kind]))
            figures = ratio(taken[peer], taken[name])
            unit, note = PEER, f"{speed / 1e9:.0f} GFLOP/s; peer's attention: {peer}"
        else:
            low, high = quartiles(taken[name])
            figures = speed / 1e9, case.flops / high / 1e9, case.flops / low / 1e9
            unit, note, bar = ALONE, "", Bar()
        yield Row(
            "step",
            f"{case} {name}" + (" cuda" if device.type == "cuda" else ""),
            *figures,
            unit,
            bar=bar,
            peak=speed / peak_flops(dtype, device.type),
            note=note,
            margin=0.35 if peer_installed() else None,
        )


def losses(steps: int) -> Iterator[Row]:
    """Yield how far the final losses of precisions and peer lie apart, in spreads over seeds.

    A sequence in which each token follows from the two before it, with noise: hard enough that the
    loss still falls at the end. The loss is the mean of the last tenth of the steps.
    """
    model = ModelConfig(d_model=64, n_layers=2, head_dim=HEAD_DIM, context_length=64)
    seeds = range(4)
    cpu = torch.device("cpu")
    finals = {
        name: [_final_loss(model, config, steps, seed) for seed in seeds]
        for name, config in forms(cpu, precisions(cpu)).items()
    }
    if peer_installed():
        finals["peer"] = [_final_loss(model, None, steps, seed) for seed in seeds]
    exact = finals.pop("fp32 eager")
    spread = statistics.stdev(exact)
    for name, values in finals.items():
        apart = [abs(a - b) / spread for a, b in zip(values, exact, strict=True)]
        yield Row(
            "step",
            f"loss after {steps} steps, {name} to fp32",
            *middle(apart),
            "standard deviations over seeds",
            bar=Bar(at_most=1.0),
            note=f"{statistics.mean(values):.4f} and {statistics.mean(exact):.4f} nats",
            margin=None,
        )


def same_model(device: torch.device) -> None:
    """Check that the peer computes our function: equal logits, and equal losses over some steps."""
    case = Case(64, 4, 64, 257)
    ours = Transformer(case.model, case.vocab).to(device)
    draws = torch.Generator().manual_seed(0)
    x, y = torch.randint(0, case.vocab, (2, case.batch, case.context), generator=draws).to(device)
    steps = {"ours": _our_step(case, forms(device, ("fp32",))["fp32 eager"], device, x, y)}
    for kind in ("sdpa", "eager"):
        with torch.no_grad():
            torch.testing.assert_close(llama(ours, kind)(input_ids=x).logits, ours(x))
        steps[kind] = _peer_step(case, kind, device, x, y)
    curves = {name: [step() for _ in range(20)] for name, step in steps.items()}
    for kind in ("sdpa", "eager"):
        torch.testing.assert_close(curves[kind], curves["ours"], rtol=1e-3, atol=0)


class _PeerPasses:
    """The peer in the form of our passes."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model

    def loss(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return next_token_loss(self._model(input_ids=x, use_cache=False).logits, y)

    def backward(self, x: torch.Tensor, y: torch.Tensor, share: float) -> torch.Tensor:
        loss = self.loss(x, y)
        (loss * share).backward()
        return loss.detach()


def _our_step(
    case: Case, config: TrainConfig, device: torch.device, x: torch.Tensor, y: torch.Tensor
) -> Callable[[], float]:
    model = Transformer(case.model, case.vocab).to(device)
    return _step(model, build_passes(model, config, device), x, y)


def _peer_step(
    case: Case, attention: str, device: torch.device, x: torch.Tensor, y: torch.Tensor
) -> Callable[[], float]:
    peer = llama(Transformer(case.model, case.vocab).to(device), attention)
    return _step(peer, _PeerPasses(peer), x, y)


def _step(
    model: nn.Module, passes: Passes, x: torch.Tensor, y: torch.Tensor
) -> Callable[[], float]:
    optimizer = build_optimizer(model, OptimConfig(lr=3e-4))

    def step() -> float:
        return float(_update(model, passes, optimizer, x, y))  # waits for the device

    return step


def _update(
    model: nn.Module,
    passes: Passes,
    optimizer: torch.optim.Optimizer,
    x: torch.Tensor,
    y: torch.Tensor,
) -> torch.Tensor:
    loss = passes.backward(x, y, 1.0)
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return loss


def _final_loss(size: ModelConfig, config: TrainConfig | None, steps: int, seed: int) -> float:
    """Train on a noisy rule; the peer where there is no config."""
    vocab, batch = 64, 16
    ours = Transformer(size, vocab, seed)
    model: nn.Module = ours if config else llama(ours, "sdpa")
    device = torch.device("cpu")
    passes = build_passes(ours, config, device) if config else _PeerPasses(model)
    optim = OptimConfig(lr=3e-3)
    optimizer = build_optimizer(model, optim)
    draws = torch.Generator().manual_seed(seed)
    table = torch.randint(0, vocab, (vocab, vocab), generator=torch.Generator().manual_seed(99))
    seen = []
    for number in range(1, steps + 1):
        text = torch.randint(0, vocab, (batch, size.context_length + 1), generator=draws)
        follows = torch.rand(text.shape, generator=draws) < 0.9
        for at in range(2, text.shape[1]):
            ruled = table[text[:, at - 2], text[:, at - 1]]
            text[:, at] = torch.where(follows[:, at], ruled, text[:, at])
        set_learning_rate(optimizer, learning_rate(number, optim, steps))
        seen.append(_update(model, passes, optimizer, text[:, :-1], text[:, 1:]).item())
    return statistics.mean(seen[-steps // 10 :])


def _clock(device: torch.device) -> Clock:
    """On a CPU this thread's own time: neighbours do not count."""
    return time.thread_time if device.type == "cpu" else time.perf_counter
