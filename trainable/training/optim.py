"""AdamW on matrices and norms, and the learning rate as a pure function of the step."""

import inspect
import math

import torch
from torch import nn

from trainable.config.trial import OptimConfig


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
    """Return AdamW (Loshchilov and Hutter 2019) that decays matrices only, not gains."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    matrices = {"params": [p for p in parameters if p.ndim >= 2]}
    gains = {"params": [p for p in parameters if p.ndim < 2]}
    optimizer = AdamW([matrices, gains], lr=config.lr, fused=True)
    use_settings(optimizer, config)
    return optimizer


def use_settings(optimizer: AdamW, config: OptimConfig) -> None:
    """Give both groups of build_optimizer the settings of `config`; a checkpoint brings its own."""
    for group, decay in zip(optimizer.param_groups, (config.weight_decay, 0.0), strict=True):
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
    """Use `rate` in the next update of all parameters."""
    for group in optimizer.param_groups:
        group["lr"] = rate
