"""Command lines, and nothing else: tools/*.py call them."""
