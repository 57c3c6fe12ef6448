"""``python -m mfconv_nb``: the command line."""

from mfconv_nb.cli.main import main

if __name__ == "__main__":
    main()
