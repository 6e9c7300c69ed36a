"""Checkpoints as whole sets, and resuming from them."""
