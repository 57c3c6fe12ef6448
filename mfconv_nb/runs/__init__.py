"""Folders that a training run left: ``rank_N/`` and Checkpoint 2.0, opened as one checkpoint; which whole a path is a part of."""
