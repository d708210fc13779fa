"""The messages and stubs of the contract, made from its protos. Written by copy_contract.py."""
