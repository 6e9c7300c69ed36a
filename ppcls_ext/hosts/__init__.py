"""The frameworks that train and run the networks of this package: one folder for each, with its adaptations."""
