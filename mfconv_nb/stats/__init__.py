"""What the numbers of a tensor look like, and how two tensors differ: counts, moments, histograms. Reads no file."""
