"""A run's folder: what was trained, with which settings, how far and how well."""
