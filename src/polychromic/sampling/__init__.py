"""Drawing generations from a policy."""
