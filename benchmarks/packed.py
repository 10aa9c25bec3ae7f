"""An experiment: several trials of one shape trained as one model, beside one after another.

Packed trials have their parameters stacked, (P, ...) for P trials, and make their steps together:
torch.func's vmap turns each product into a batched one. Each trial has its own batch, learning rate
and gradient norm. The other side is P trials of the product's own passes, one after another on the
same core, which is the most that P processes sharing it could do.
"""

import time
from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.func import functional_call, grad_and_value, stack_module_state, vmap

from benchmarks.measure import Row, interleave, precisions, ratio
from trainable.config.trial import ModelConfig, OptimConfig, TrainConfig
from trainable.hardware.allocator import keep_freed_memory
from trainable.hardware.device import autocast
from trainable.model.transformer import Transformer, by_products, next_token_loss
from trainable.passes.forms import build_passes
from trainable.training.optim import build_optimizer

TRIALS = 4
TRIALS_ON_GPU = 8
BATCH, CONTEXT, VOCAB = 8, 128, 257
RATES = (1e-3, 3e-3, 1e-2, 3e-4)
"""Learning rates, taken in turn."""
CLIP = 1.0
EQUAL_STEPS = 20


def rows(short: bool) -> Iterator[Row]:
    """Yield the throughput of packed trials for each width and precision."""
    torch.set_num_threads(1)
    keep_freed_memory()
    same_training()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    for width in (64,) if short else (64, 128, 256):
        for precision in precisions(device):
            yield from _speeds(width, precision, device, rounds=5 if short else 15)


def same_training() -> None:
    """Check that packed trials learn what separate ones do: equal losses over some steps."""
    device = torch.device("cpu")
    packed = Packed(64, "fp32", TRIALS, device)
    separate = Separate(64, "fp32", TRIALS, device, "products")
    for number in range(1, EQUAL_STEPS + 1):
        torch.testing.assert_close(packed.step(number), separate.step(), rtol=1e-3, atol=0)


def _speeds(width: int, precision: str, device: torch.device, rounds: int) -> Iterator[Row]:
    trials = TRIALS if device.type == "cpu" else TRIALS_ON_GPU
    forms = {"products": "the product's passes", "sdpa": "torch's modules"}
    packed = Packed(width, precision, trials, device)
    separate = {form: Separate(width, precision, trials, device, form) for form in forms}
    steps = iter(range(1, 1_000_000))
    sides: dict[str, Callable[[], object]] = {"packed": lambda: packed.step(next(steps))}
    sides |= {form: side.step for form, side in separate.items()}
    clock = time.thread_time if device.type == "cpu" else time.perf_counter
    taken = interleave(sides, rounds, clock, warm_up=3)
    for form, named in forms.items():
        yield Row(
            "packed",
            f"{trials} trials d{width} {BATCH}x{CONTEXT} {precision} {device.type}, to {named}",
            *ratio(taken[form], taken["packed"]),
            unit="x the steps of as many trials one after another",
            margin=None,
            note="an experiment",
        )


def _model(width: int) -> Transformer:
    config = ModelConfig(d_model=width, n_layers=4, head_dim=32, context_length=CONTEXT)
    return Transformer(config, VOCAB, seed=0)


def _tokens(trials: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return inputs and targets, both (P, B, T): the same at every step."""
    draws = torch.Generator().manual_seed(1)
    shape = (2, trials, BATCH, CONTEXT)
    x, y = torch.randint(0, VOCAB, shape, generator=draws).to(device)
    return x, y


class Separate:
    """Trials one after another, in one of the product's forms of attention and passes."""

    def __init__(
        self, width: int, precision: str, trials: int, device: torch.device, form: str
    ) -> None:
        config = TrainConfig.model_validate(
            {"precision": precision, "attention": form, "compile": "never", "device": device.type}
        )
        self._batches = list(zip(*_tokens(trials, device), strict=True))
        self._models = [_model(width).to(device) for _ in range(trials)]
        self._passes = [build_passes(model, config, device) for model in self._models]
        self._optimizers = [
            build_optimizer(model, OptimConfig(lr=RATES[n % len(RATES)]))
            for n, model in enumerate(self._models)
        ]

    def step(self) -> Tensor:
        """Make a step of each trial; return their losses (P), on the CPU."""
        losses = []
        for number, (x, y) in enumerate(self._batches):
            losses.append(self._passes[number].backward(x, y, 1.0))
            torch.nn.utils.clip_grad_norm_(self._models[number].parameters(), CLIP)
            self._optimizers[number].step()
            self._optimizers[number].zero_grad(set_to_none=True)
        return torch.stack(losses).cpu()


class Packed:
    """The same trials as one model of stacked parameters."""

    def __init__(self, width: int, precision: str, trials: int, device: torch.device) -> None:
        models = [_model(width).to(device) for _ in range(trials)]
        stacked, _ = stack_module_state(models)
        self._names = list(stacked)
        self._parameters = [stacked[name].detach() for name in self._names]
        self._means = [torch.zeros_like(p) for p in self._parameters]
        self._squares = [torch.zeros_like(p) for p in self._parameters]
        self._batches = _tokens(trials, device)
        self._optim = OptimConfig()
        self._rates = torch.tensor([RATES[n % len(RATES)] for n in range(trials)], device=device)
        base = models[0]

        def loss(parameters: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
            with autocast(precision, device):
                # vmap would run torch's own CPU kernels trial by trial
                logits = functional_call(base, parameters, (x, by_products))
            return next_token_loss(logits, y)

        self._gradients = vmap(grad_and_value(loss))

    @torch.no_grad()
    def step(self, number: int) -> Tensor:
        """Make step `number`, from 1, of all trials; return their losses (P), on the CPU."""
        named = dict(zip(self._names, self._parameters, strict=True))
        found, losses = self._gradients(named, *self._batches)
        gradients = [found[name] for name in self._names]
        norms = torch.stack([g.flatten(1).norm(dim=1) for g in gradients]).norm(dim=0)  # (P)
        scale = (CLIP / (norms + 1e-6)).clamp(max=1.0)
        torch._foreach_mul_(gradients, [_beside(scale, g) for g in gradients])
        self._update(gradients, number)
        return losses.detach().cpu()

    def _update(self, gradients: list[Tensor], number: int) -> None:
        """Make AdamW's update with a rate for each trial; gains are not decayed."""
        optim = self._optim
        kept = [
            _beside(1 - self._rates * (optim.weight_decay if p.ndim > 2 else 0.0), p)
            for p in self._parameters
        ]
        torch._foreach_mul_(self._parameters, kept)
        torch._foreach_lerp_(self._means, gradients, 1 - optim.beta1)
        torch._foreach_mul_(self._squares, optim.beta2)
        torch._foreach_addcmul_(self._squares, gradients, gradients, 1 - optim.beta2)
        roots = torch._foreach_sqrt(self._squares)
        torch._foreach_div_(roots, (1 - optim.beta2**number) ** 0.5)
        torch._foreach_add_(roots, optim.eps)
        updates = torch._foreach_div(self._means, roots)
        rates = self._rates / (1 - optim.beta1**number)
        torch._foreach_mul_(updates, [_beside(rates, p) for p in self._parameters])
        torch._foreach_sub_(self._parameters, updates)


def _beside(each: Tensor, stacked: Tensor) -> Tensor:
    """Return one number a trial (P) in a shape that multiplies (P, ...)."""
    return each.view(-1, *[1] * (stacked.ndim - 1))
