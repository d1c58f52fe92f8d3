"""`python -m qpipe` is the command line."""

from qpipe.cli.main import main

if __name__ == "__main__":
    raise SystemExit(main())
