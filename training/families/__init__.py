"""Each system as its paper has it: one short file a family."""
