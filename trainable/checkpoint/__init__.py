"""Checkpoints: the contract (CS336 assignment 1, section 5.2), a trial's folder, an export."""

from trainable.checkpoint.contract import load_checkpoint, save_checkpoint

__all__ = ["load_checkpoint", "save_checkpoint"]
