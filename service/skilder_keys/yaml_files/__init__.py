"""YAML files as people write them, with the line of everything that is in them."""
