"""Reading weight files and loading them strictly."""
