"""The user's checkers: loaded, run in processes of their own, limited, and never believed."""
