"""What one trial is: frozen settings for data, model, optimizer and training.

Precedence, everywhere: defaults < YAML file < command-line flags < the search's suggestion.
"""

from typing import Any, Literal, Self

from pydantic import Field, model_validator

from trainable.config.section import Section


class DataConfig(Section):
    """Which tokens are trained on."""

    dataset: str = Field(default="data/python-stdlib", min_length=1)
    """Folder with train.npy, val.npy and meta.json; a relative one starts at the project folder.
    The default is made from the running Python's standard library when it is missing."""
    raw_dtype: Literal["uint16", "uint32"] | None = None
    """For a folder with headerless train.bin and val.bin instead (nanoGPT's kind): their type,
    little-endian."""
    raw_vocab_size: int | None = Field(default=None, ge=2, le=2**32)
    """Number of token ids in the raw files' vocabulary; stated together with raw_dtype."""

    @model_validator(mode="after")
    def _raw_settings_come_together(self) -> Self:
        if (self.raw_dtype is None) != (self.raw_vocab_size is None):
            raise ValueError("raw_dtype and raw_vocab_size must be set together, or neither")
        return self


class ModelConfig(Section):
    """Size of the Transformer (CS336 assignment 1, section 3)."""

    d_model: int = Field(default=128, ge=2, le=65_536)
    """Width of the residual stream; a multiple of head_dim."""
    n_layers: int = Field(default=4, ge=1, le=1_000)
    """Number of Transformer blocks."""
    head_dim: int = Field(default=32, ge=2, le=1_024)
    """Width of one attention head, even; the number of heads is d_model / head_dim."""
    d_ff: int | None = Field(default=None, ge=1, le=1_000_000)
    """Inner width of SwiGLU; unset: 8/3 d_model rounded to a multiple of 64."""
    context_length: int = Field(default=128, ge=1, le=1_000_000)
    """Tokens in one training sequence."""
    rope_theta: float = Field(default=10_000.0, gt=0)
    """Base of the rotary position angles."""
    norm_eps: float = Field(default=1e-5, gt=0, le=1)
    """Added to the mean square in RMSNorm."""
    tie_embeddings: bool = False
    """Use one matrix for the token embedding and the output head."""
    parametrization: Literal["standard", "mup"] = "standard"
    """How initial weights and rates go with the width. mup: so that one learning rate fits all
    widths (maximal update parametrization, Yang et al. 2022)."""
    base_width: int = Field(default=128, ge=1, le=65_536)
    """Only for mup: the d_model at which it is the same as the standard parametrization."""

    @property
    def n_heads(self) -> int:
        """Number of attention heads."""
        return self.d_model // self.head_dim

    @property
    def ff_width(self) -> int:
        """Inner width of SwiGLU, given or derived."""
        return self.d_ff or max(64, round(8 * self.d_model / 3 / 64) * 64)

    @model_validator(mode="after")
    def _heads_divide_the_width(self) -> Self:
        if self.head_dim % 2:
            raise ValueError(
                f"head_dim {self.head_dim} is odd: rotary positions turn pairs of channels, "
                "choose an even one"
            )
        if self.d_model % self.head_dim:
            raise ValueError(
                f"d_model {self.d_model} is not a multiple of head_dim {self.head_dim}: "
                f"take {max(1, round(self.d_model / self.head_dim)) * self.head_dim}, "
                "or another head_dim"
            )
        return self

    @model_validator(mode="after")
    def _mup_scales_the_head_alone(self) -> Self:
        if self.parametrization == "mup" and self.tie_embeddings:
            raise ValueError(
                "parametrization mup with tie_embeddings: head and embedding want other scales; "
                "leave one of them out"
            )
        return self


class OptimConfig(Section):
    """AdamW and the learning-rate schedule (CS336 assignment 1, section 4)."""

    lr: float = Field(default=3e-3, gt=0, le=1e3)
    """Peak learning rate; with model.parametrization mup, that at the base width."""
    schedule: Literal["cosine", "wsd"] = "cosine"
    """After the warm-up: a cosine down to the final rate, or "wsd": stable, then a linear decay."""
    warmup_fraction: float = Field(default=0.05, ge=0, le=1)
    """Share of the steps in which the rate rises linearly to its peak."""
    decay_fraction: float = Field(default=0.2, ge=0, le=1)
    """Only for wsd: share of the steps, at the end, in which the rate falls."""
    min_lr_fraction: float = Field(default=0.1, ge=0, le=1)
    """Final rate as a share of the peak."""
    beta1: float = Field(default=0.9, ge=0, lt=1)
    """Decay of AdamW's mean of gradients."""
    beta2: float = Field(default=0.95, ge=0, lt=1)
    """Decay of AdamW's mean of squared gradients."""
    eps: float = Field(default=1e-8, gt=0, le=1)
    """Added to the root of the mean square in AdamW."""
    weight_decay: float = Field(default=0.1, ge=0, le=1e3)
    """Decoupled decay of matrices; norms are not decayed."""
    grad_clip: float = Field(default=1.0, gt=0)
    """Largest global gradient norm; a larger gradient is scaled down to it."""

    @model_validator(mode="after")
    def _phases_fit(self) -> Self:
        if self.schedule == "wsd" and self.warmup_fraction + self.decay_fraction > 1:
            raise ValueError(
                f"warmup_fraction {self.warmup_fraction} + decay_fraction {self.decay_fraction} "
                "is more than 1: shorten one of them"
            )
        return self


class TrainConfig(Section):
    """How long, on what and how exactly one trial trains."""

    steps: int = Field(default=600, ge=1, le=10**12)
    """Optimizer steps of a full trial."""
    batch_size: int = Field(default=8, ge=1, le=10**6)
    """Sequences in one optimizer step."""
    grad_accumulation: int = Field(default=1, ge=1, le=10**6)
    """Equal parts that a step's batch is computed in, to save memory; divides batch_size."""
    eval_every: int | None = Field(default=None, ge=1, le=10**12)
    """Steps between evaluations, unset: an eighth of the steps. Step 0 and the last step are
    always evaluated."""
    eval_tokens: int = Field(default=32_768, ge=1)
    """Validation tokens in one evaluation: the same windows for every trial and size."""
    seed: int = Field(default=0, ge=0, lt=2**63)
    """Seed of the initial weights and of the order of batches."""
    device: str = Field(default="auto", pattern=r"^(auto|cpu(:0)?|mps|cuda(:\d+)?)$")
    """auto (CUDA, else MPS, else CPU), cpu, cuda, cuda:N or mps."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Of matrix products and activations; weights, sums and losses are fp32. auto: the faster."""
    attention: Literal["auto", "sdpa", "plain", "products"] = "auto"
    """sdpa: torch's attention kernels, in torch's modules. plain: attention as two matrix
    products, in torch's modules. products: the same two, in a forward and backward pass scheduled
    by hand. auto: the fastest."""
    compile: Literal["auto", "always", "never"] = "auto"
    """Whether torch.compile fuses the passes. auto: where the trials are long enough to repay the
    minutes that it takes."""
    threads: int = Field(default=1, ge=1, le=4_096)
    """CPU threads of one trial. Other thread counts give other low-order bits."""

    @property
    def eval_interval(self) -> int:
        """Steps between evaluations, given or derived."""
        return self.eval_every or max(1, self.steps // 8)

    @property
    def computed_in(self) -> str:
        """Precision, attention form and compilation in words."""
        forms = {
            "sdpa": "torch's kernels",
            "plain": "matrix products in torch's modules",
            "products": "matrix products",
        }
        compiled = {"always": "compiled", "never": "not compiled"}
        return (
            f"{self.precision}, attention by {forms.get(self.attention, 'auto')}, "
            f"{compiled.get(self.compile, 'compiled or not: auto')}"
        )

    @model_validator(mode="after")
    def _counts_fit(self) -> Self:
        if self.eval_interval > self.steps:
            raise ValueError(
                f"eval_every {self.eval_every} is beyond steps {self.steps}: nothing would be "
                f"reported on the way; choose at most {self.steps}"
            )
        if self.batch_size % self.grad_accumulation:
            raise ValueError(
                f"grad_accumulation {self.grad_accumulation} does not divide batch_size "
                f"{self.batch_size}: choose a divisor"
            )
        return self


class TrialConfig(Section):
    """Everything that decides a trial's numbers."""

    data: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig()
    optim: OptimConfig = OptimConfig()
    train: TrainConfig = TrainConfig()

    def with_values(self, values: dict[str, Any]) -> "TrialConfig":
        """Return a copy with dotted fields replaced, e.g. `{"optim.lr": 1e-3}`, validated again.

        Raises:
            pydantic.ValidationError: a value breaks a rule, or the field does not exist.
        """
        tree = self.model_dump()
        for path, value in values.items():
            *sections, field = path.split(".")
            node = tree
            for section in sections:
                node = node.setdefault(section, {})
            node[field] = value
        return TrialConfig.model_validate(tree)

    @property
    def tokens_per_step(self) -> int:
        """Tokens trained on in one optimizer step."""
        return self.train.batch_size * self.model.context_length
