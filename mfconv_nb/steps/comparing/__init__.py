"""How two checkpoints differ, and the proof of a conversion."""
