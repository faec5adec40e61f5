"""Prompts with the judgement that goes with them."""
