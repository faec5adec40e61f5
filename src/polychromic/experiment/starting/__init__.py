"""Starts an experiment from a file of prompts: splits it, looks at the model, writes a file that runs."""
