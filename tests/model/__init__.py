"""A model of the fence, small enough to take its steps in every order there is."""
