"""A configuration: read, checked, opened as typed settings, and brought into the form that PaddleClas runs safely."""
