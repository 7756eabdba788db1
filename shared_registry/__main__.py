"""`python -m shared_registry`: the command, also where its script is not on the PATH."""

from shared_registry.cli.app import main

if __name__ == "__main__":
    main()
