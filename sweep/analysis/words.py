"""How numbers, settings and outcomes are said, wherever they are shown."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from sweep.config.sweep import SweepConfig
from sweep.record.results import SweepRecord, TrialRecord
from trainable.config.trial import ModelConfig

GOALS = {"best": "the best configuration", "table": "the best rate of every size"}
"""What the trials of a sweep are for, where it is not both."""


def short_name(field: str) -> str:
    """Return the last part of a dotted field name, as people say it: "lr"."""
    return field.rpartition(".")[2]


def show_value(value: Any) -> str:
    """Return a value as people write it: 0.003162, 1.2e-05, 128."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def rung_text(config: SweepConfig, rung: int) -> str:
    """Return where a rung lies: at a step, or at a share of each trial's steps."""
    share = 100 * rung / config.trial.train.steps
    return f"{share:.3g}%" if config.by_flops else f"{rung:,}"


def rate_text(rate: float) -> str:
    """Return a learning rate as people say it: "3.1e-3"."""
    mantissa, exponent = f"{rate:.1e}".split("e")
    return f"{mantissa}e{int(exponent)}"


def duration(seconds: float) -> str:
    """Return seconds as people say them: "45 s", "4 min 10 s", "2 h 05 min"."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def magnitude(value: float) -> str:
    """Return a count as 3 digits and a suffix: "821k", "1.2M", "54.3G"."""
    value = float(f"{value:.3g}")  # first: 999,999 is 1M, not 1000k
    for limit, suffix in (
        (1e18, "E"),
        (1e15, "P"),
        (1e12, "T"),
        (1e9, "G"),
        (1e6, "M"),
        (1e3, "k"),
    ):
        if value >= limit:
            return f"{value / limit:.3g}{suffix}"
    return f"{value:.3g}"


def flops_text(value: float) -> str:
    """Return a count of FLOPs with its unit: "4.95 TFLOP"."""
    text = magnitude(value)
    number = text.rstrip("EPTGMk")
    return f"{number} {text[len(number) :]}FLOP"


def params_text(params: dict[str, Any]) -> str:
    """Return a suggestion as text, e.g. "lr=0.003162 d_model=128"."""
    return " ".join(f"{short_name(name)}={show_value(v)}" for name, v in params.items())


def older_text(older: Sequence[TrialRecord]) -> str:
    """Return which trials of older sweeps are known: "32 trials of sweep-001, 8 of sweep-002"."""
    counts = Counter(trial.sweep for trial in older)
    words = [f"{count} of {sweep}" for sweep, count in counts.items()]
    return ", ".join(words).replace(" of", " trials of", 1)


def size_text(fields: Sequence[str], size: Sequence[Any]) -> str:
    """Return a size by its searched fields: "128x4" for width and depth, else "d_model=128"."""
    if tuple(fields) == ("model.d_model", "model.n_layers"):
        return f"{size[0]}x{size[1]}"
    return params_text(dict(zip(fields, size, strict=True)))


def describe_domains(config: SweepConfig) -> list[str]:
    """Return one line for each searched field."""
    lines = []
    for name, domain in config.space.items():
        values = [show_value(v) for v in domain.values]
        shown = ", ".join(values) if domain.choice else f"{values[0]} .. {values[1]}"
        lines.append(f"{name}: {shown} ({domain.kind})")
    return lines


def size_name(config: SweepConfig, model: ModelConfig) -> str:
    """Return a size as its searched fields, e.g. "d_model=64 n_layers=2"."""
    fields = [n.split(".")[1] for n in config.space if n.startswith("model.")]
    fields = fields or ["d_model", "n_layers"]
    return " ".join(f"{short_name(f)}={show_value(getattr(model, f))}" for f in fields)


def outcome_text(trial: TrialRecord) -> str:
    """Return an outcome with what it needs to be understood."""
    if trial.outcome == "stopped":
        return f"stopped at step {trial.rung:,}"
    return trial.outcome or "running"


def counts_text(record: SweepRecord) -> str:
    """Return the number of trials by outcome, e.g. "11 finished, 21 stopped"."""
    return ", ".join(f"{n:,} {name.replace('_', ' ')}" for name, n in record.counts().items())


def loss_text(value: float | None) -> str:
    """Return a loss with four digits; "-" where there is none that counts."""
    return "-" if value is None else f"{value:.4f}"
