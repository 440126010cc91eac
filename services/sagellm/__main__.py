"""`python -m sagellm`: the command line."""

from sagellm.cli.main import main

main()
