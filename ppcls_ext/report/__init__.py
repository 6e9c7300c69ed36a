"""Pictures and pages about data, trainings and predictions; matplotlib draws them, no Paddle."""
