"""Ways to tell which answers are the same that need more than the texts: settings, functions, classifiers, judges."""
