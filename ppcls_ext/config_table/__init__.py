"""The table from which all files in configs/ are written."""
