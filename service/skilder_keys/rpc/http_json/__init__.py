"""The contract as HTTP and JSON: which request is which method, and messages in proto JSON."""
