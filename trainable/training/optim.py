"""AdamW on matrices and norms, and the learning rate as a pure function of the step."""

import inspect
import math
from typing import Any

import torch
from torch import nn

from trainable.config.trial import OptimConfig
from trainable.model.transformer import Transformer

RATE_SCALE = "rate_scale"
"""Key of a group whose rate is the schedule's times a number; others have none."""


class AdamW(torch.optim.AdamW):
    """torch's own AdamW, taken out of the wrappers that tell torch's compiler to leave it alone.

    They import that compiler, two seconds of a processor in each process; a step is never compiled.
    """

    add_param_group = inspect.unwrap(torch.optim.AdamW.add_param_group)
    zero_grad = inspect.unwrap(torch.optim.AdamW.zero_grad)
    step = torch.no_grad()(inspect.unwrap(torch.optim.AdamW.step))
    state_dict = inspect.unwrap(torch.optim.AdamW.state_dict)
    load_state_dict = inspect.unwrap(torch.optim.AdamW.load_state_dict)


def build_optimizer(model: nn.Module, config: OptimConfig) -> AdamW:
    """Return AdamW (Loshchilov and Hutter 2019) that decays matrices only, not gains.

    With muP there is a group more for each scale of the rate (see parametrization.py), which the
    group has as `rate_scale`.
    """
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    gains = [p for _, p in named if p.ndim < 2]
    matrices: dict[float, list[nn.Parameter]] = {1.0: []}
    for name, parameter in named:
        if parameter.ndim >= 2:
            scale = model.rate_scale(name) if isinstance(model, Transformer) else 1.0
            matrices.setdefault(scale, []).append(parameter)
    groups: list[dict[str, Any]] = [{"params": matrices.pop(1.0)}, {"params": gains}]
    groups += [{"params": own, RATE_SCALE: scale} for scale, own in matrices.items()]
    optimizer = AdamW(groups, lr=config.lr, fused=True)
    use_settings(optimizer, config)
    return optimizer


def use_settings(optimizer: AdamW, config: OptimConfig) -> None:
    """Give the groups of build_optimizer the settings of `config`; a checkpoint brings its own.

    What a scale takes from a group's rate, it gives to its decay: their product stays.
    """
    _, gains, *_ = optimizer.param_groups
    for group in optimizer.param_groups:
        decay = 0.0 if group is gains else config.weight_decay / group.get(RATE_SCALE, 1.0)
        group.update(betas=(config.beta1, config.beta2), eps=config.eps, weight_decay=decay)


def learning_rate(step: int, config: OptimConfig, total_steps: int) -> float:
    """Return the rate of update number `step`, from 1 to total_steps.

    No update has rate 0, but the last one where min_lr_fraction is 0. Linear from 0 to lr over the
    warm-up, then a cosine to the final rate, reached at the last step (CS336 assignment 1,
    section 4.4), or, for wsd, stable and then a linear decay (Hu et al. 2024).
    """
    warmup = config.warmup_fraction * total_steps
    final = config.lr * config.min_lr_fraction
    if 0 < warmup >= step:
        return config.lr * step / warmup
    if config.schedule == "cosine":
        done = (step - warmup) / (total_steps - warmup)
        return final + 0.5 * (1 + math.cos(math.pi * done)) * (config.lr - final)
    decay = config.decay_fraction * total_steps
    left = total_steps - step
    return config.lr if left >= decay else final + (config.lr - final) * left / decay


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Use `rate` in the next update of all parameters, with their groups' scales."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group.get(RATE_SCALE, 1.0)
