"""`python -m polychromic` is the command `polychromic`."""

from polychromic.cli import main

if __name__ == "__main__":
    main()
