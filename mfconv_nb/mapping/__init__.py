"""From rules to a plan: names, sizes, matching, what is missing."""
