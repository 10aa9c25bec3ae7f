"""muP: what an update changes of the activations does not go with the width (Yang et al. 2022)."""

import io
import math

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from benchmarks.parametrization import lowest
from trainable.checkpoint.contract import load_checkpoint, save_checkpoint
from trainable.config.trial import ModelConfig, OptimConfig, TrialConfig
from trainable.model.transformer import Transformer, next_token_loss
from trainable.training.optim import AdamW, build_optimizer, set_learning_rate, use_settings

VOCAB, BASE = 64, 32
SEEN = ("embedding", "blocks.0", "blocks.1.attention", "blocks.1.feed_forward", "blocks.1", "head")


def model(width: int, parametrization: str = "mup", **changes: object) -> Transformer:
    settings = {"d_model": width, "n_layers": 2, "head_dim": 16, "context_length": 16}
    settings |= {"parametrization": parametrization, "base_width": BASE, **changes}
    return Transformer(ModelConfig.model_validate(settings), VOCAB)


def tokens() -> Tensor:
    return torch.randint(0, VOCAB, (8, 17), generator=torch.Generator().manual_seed(1))


def train(trained: Transformer, optimizer: AdamW, steps: int, rate: float = 1e-2) -> None:
    batch = tokens()
    for _ in range(steps):
        loss = next_token_loss(trained(batch[:, :-1]), batch[:, 1:])
        optimizer.zero_grad()
        loss.backward()
        set_learning_rate(optimizer, rate)
        optimizer.step()


def activations(seen: Transformer) -> dict[str, Tensor]:
    kept: dict[str, Tensor] = {}

    def keep(name: str):
        def hook(_: nn.Module, __: object, out: Tensor) -> None:
            kept[name] = out

        return hook

    hooks = [seen.get_submodule(name).register_forward_hook(keep(name)) for name in SEEN]
    with torch.no_grad():
        seen(tokens()[:, :-1])
    for hook in hooks:
        hook.remove()
    return kept


def changes(width: int, parametrization: str) -> dict[str, float]:
    """Return by how much four updates change activations, in root mean squares."""
    trained = model(width, parametrization)
    before = activations(trained)
    train(trained, build_optimizer(trained, OptimConfig()), steps=4)
    after = activations(trained)
    return {name: float((after[name] - before[name]).square().mean().sqrt()) for name in SEEN}


def test_coordinates_change_alike_at_all_widths() -> None:
    """The coordinate check of Yang et al. 2022, appendix D.1."""
    widths = (64, 128, 256, 512)
    by_width = [changes(width, "mup") for width in widths]
    standard = [changes(width, "standard") for width in widths]
    for name in SEEN:
        assert 0.6 < by_width[-1][name] / by_width[0][name] < 1.3, name
    for name in ("blocks.0", "blocks.1", "head"):
        growth = standard[-1][name] / standard[0][name]
        assert growth > 2, f"without it, {name} grows with the width: {growth:.2f}"


def test_at_the_base_width_both_are_the_same() -> None:
    one, other = model(BASE), model(BASE, "standard")
    for (name, mine), theirs in zip(one.named_parameters(), other.parameters(), strict=True):
        assert torch.equal(mine, theirs), name
    groups = [build_optimizer(m, OptimConfig()).state_dict()["param_groups"] for m in (one, other)]
    assert groups[0] == groups[1]


def test_initial_weights_and_rates_go_with_the_width_as_the_table_says() -> None:
    wide = model(4 * BASE, d_ff=6 * 64)  # at the base width d_ff is 384, too
    narrow = model(BASE, d_ff=6 * 64)
    head, narrow_head = (float(m.head.weight.detach().std()) for m in (wide, narrow))
    assert head / narrow_head == pytest.approx(1 / 4, rel=0.05)
    assert float(wide.embedding.weight.detach().std()) == pytest.approx(
        float(narrow.embedding.weight.detach().std()), rel=0.05
    )
    optimizer = build_optimizer(wide, OptimConfig(weight_decay=0.1))
    set_learning_rate(optimizer, 0.02)
    found = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    assert len(found) == len(list(wide.parameters()))
    for name, parameter in wide.named_parameters():
        group, layer = found[id(parameter)], name.split(".")[-2]
        ratio = 4 if layer in ("qkv", "out", "w13", "head") else 1
        assert group["lr"] == pytest.approx(0.02 / ratio), name
        product = 0.0 if parameter.ndim < 2 else 0.02 * 0.1
        assert group["lr"] * group["weight_decay"] == pytest.approx(product), name
    derived = model(4 * BASE)
    scales = {n: derived.rate_scale(n) for n, _ in derived.named_parameters()}
    ratio = derived.config.ff_width / model(BASE).config.ff_width
    assert scales["blocks.0.feed_forward.w2.weight"] == pytest.approx(1 / ratio)
    assert ratio == pytest.approx(4, rel=0.25)


def test_a_checkpoint_goes_on_to_the_bit() -> None:
    whole = model(2 * BASE)
    optimizer = build_optimizer(whole, OptimConfig())
    train(whole, optimizer, steps=2)
    file = io.BytesIO()
    save_checkpoint(whole, optimizer, 2, file)
    train(whole, optimizer, steps=2)
    again = model(2 * BASE)
    other = build_optimizer(again, OptimConfig(weight_decay=0.5))
    file.seek(0)
    assert load_checkpoint(file, again, other) == 2
    use_settings(other, OptimConfig())
    train(again, other, steps=2)
    for mine, theirs in zip(whole.parameters(), again.parameters(), strict=True):
        assert torch.equal(mine, theirs)
    file.seek(0)
    standard = model(2 * BASE, "standard")
    with pytest.raises(Exception, match="group"):
        load_checkpoint(file, standard, build_optimizer(standard, OptimConfig()))


def test_a_tied_head_is_refused() -> None:
    with pytest.raises(ValidationError, match="head and embedding want other scales"):
        model(BASE, tie_embeddings=True)


def test_it_can_be_searched_beside_the_width() -> None:
    trial = TrialConfig().with_values({"model.parametrization": "mup", "model.d_model": 64})
    assert trial.model.parametrization == "mup"
    assert math.isclose(Transformer(trial.model, VOCAB).rate_scale("head.weight"), 2)


def test_the_benchmark_finds_the_lowest_of_a_valley() -> None:
    places = np.log([1e-3, 2e-3, 4e-3, 8e-3])
    best = math.log(3e-3)
    assert lowest(places, 2 + 0.1 * (places - best) ** 2) == pytest.approx(best)
    assert lowest(places, -places) == places[-1], "the end, where it is still falling"
