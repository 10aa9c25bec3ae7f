"""Benchmarks: what is claimed about speed, as anyone can measure it."""
