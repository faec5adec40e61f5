"""Base models, adapters, tokenizers and token sequences."""
