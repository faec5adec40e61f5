"""One experiment file from reading to report."""
