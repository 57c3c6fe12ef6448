"""One file per command. Each names its SECTION of ``mfconv --help`` and its SUMMARY."""
