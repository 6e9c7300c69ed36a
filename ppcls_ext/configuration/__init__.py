"""A configuration: read, checked, and brought into the form that PaddleClas runs safely."""
