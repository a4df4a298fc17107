"""Checks that need a GPU, run by hand: `python -m tests.gpu.check`."""
