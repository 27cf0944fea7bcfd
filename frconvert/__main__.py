"""`python -m frconvert` is the command line."""

from frconvert.cli import main

main()
