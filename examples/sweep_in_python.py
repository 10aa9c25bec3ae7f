# %% [markdown]
# # A sweep in Python
# Editors that know `# %%` (VS Code, PyCharm, Spyder, Jupyter with jupytext) open this file as a
# notebook.
# From a terminal: `python examples/sweep_in_python.py`.

# %% Run a small sweep: four tiny trials. Settings are those of the YAML file; any can be replaced.
from sweep import load_sweep, run_sweep

sweep = run_sweep("smoke.yaml", num_samples=4)

# %% One that was run before, or that still runs elsewhere:
sweep = load_sweep(sweep.name)
print(sweep)

# %% Its trials as a pandas table; `sweep.evaluations` has their curves, `sweep.sizes` the fit.
columns = ["outcome", "val_loss", *sweep.config.space, "step", "tokens", "flops"]
print(sweep.trials.sort_values("rank")[columns].to_string())

# %% What it found, in words, each with the rule behind it:
for finding in sweep.findings:
    print(f"- {finding.text}")

# %% Loss against learning rate, a curve a size: any picture of the report, as a plotly figure.
sweep.figure("valleys").write_html(sweep.folder / "valleys.html")

# %% The best trial's model, from its verified checkpoint, writes on from a prompt:
import torch

from trainable.data.tokenizer import load_tokenizer
from trainable.generate import generate

model = sweep.restore()
tokenizer = load_tokenizer(sweep.tokenizer_file)
prompt = "def "
ids = torch.tensor(tokenizer.encode(prompt).ids)
print(prompt + tokenizer.decode(generate(model, ids, max_tokens=60, temperature=0.8)))

# %% The same sweep in Optuna's own pictures: `optuna-dashboard sqlite:///study.db`
sweep.write_optuna_study(sweep.folder / "study.db")
