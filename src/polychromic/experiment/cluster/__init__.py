"""Many runs side by side: jobs as tasks of a Ray cluster, and the search for settings over them."""
