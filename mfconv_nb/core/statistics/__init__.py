"""Statistics of one tensor and of two, streamed."""
