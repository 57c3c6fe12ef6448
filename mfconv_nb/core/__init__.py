"""What everything stands on: errors, layout, blocks, dtypes, checkpoints, reports."""
