"""The sections of ``mfconv --help``, in their order. Every command module in ``commands/`` names its own, and a SUMMARY."""

from __future__ import annotations

LOOK, CONVERT, CHECK, RULES = "Look", "Convert", "Check", "Make rules"
SECTIONS = (LOOK, CONVERT, CHECK, RULES)
