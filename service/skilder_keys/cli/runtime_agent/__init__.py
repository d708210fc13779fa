"""The agent that keeps the token file of a runtime instance fresh."""
