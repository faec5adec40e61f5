"""Counts the answers to one prompt: which pass and which are the same, and all that follows from the two."""
