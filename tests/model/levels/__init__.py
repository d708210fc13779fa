"""A model of the two-level memory, small enough to try its steps in every possible order."""
