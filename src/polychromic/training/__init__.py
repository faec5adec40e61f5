"""Following the gradient of quality and diversity, resumable at any step."""
