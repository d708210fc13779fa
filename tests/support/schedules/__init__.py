"""Schedules: a process, a database, and everything that can happen to both, in an order that a seed decides."""
