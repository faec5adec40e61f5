"""Takes one experiment file from reading to report."""
