"""Training, evaluation, inference and export with PaddleClas's engine."""
