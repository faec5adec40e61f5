"""Reads prompts from whatever file they come in: rows, the forms that rows have, and splits that share nothing."""
