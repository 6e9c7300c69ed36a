"""Command lines, and nothing else: tools/*.py call them."""

import warnings

# Paddle says so at every import; it concerns people who compile operators. Here, as the commands may import Paddle.
warnings.filterwarnings("ignore", message="No ccache found")
