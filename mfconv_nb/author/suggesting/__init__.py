"""Drafts of rules from two checkpoints, and what makes one tensor equal to another."""
