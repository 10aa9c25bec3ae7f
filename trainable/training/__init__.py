"""The training loop: optimizer, rate, evaluations, and what is chosen before it begins."""
