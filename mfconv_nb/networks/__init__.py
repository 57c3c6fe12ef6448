"""torch Modules and MindSpore Cells, read and filled."""
