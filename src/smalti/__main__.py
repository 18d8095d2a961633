"""`python -m smalti` is the `smalti` command."""

from smalti.cli.app import main

if __name__ == "__main__":
    main()
