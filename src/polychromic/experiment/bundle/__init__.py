"""Packs an experiment for a rented machine, and takes in what comes back from there."""
