"""Paired statistics over prompts and training seeds: pure functions of arrays."""
