"""What Authorize costs, against an empty method of the same framework: `make bench`."""
