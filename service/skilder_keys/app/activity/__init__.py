"""Activity: what keys are used for, counted in memory and written in batches."""
