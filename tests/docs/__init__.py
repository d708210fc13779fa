"""The generated parts of the documents: `python -m tests.docs` writes them, and tests compare them with the files."""
