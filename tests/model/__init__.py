"""A model of the fence, small enough to try its steps in every possible order."""
