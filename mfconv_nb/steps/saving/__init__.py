"""Plan, check, fill and publish a checkpoint; fill networks."""
