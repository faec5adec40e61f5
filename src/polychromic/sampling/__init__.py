"""Draws generations from a policy."""
