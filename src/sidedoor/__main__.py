"""`python -m sidedoor`: the command line."""

from sidedoor.cli.main import main

main()
