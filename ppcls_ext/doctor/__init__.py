"""What `ppcls-ext doctor` looks at: the machine, the installed packages, and a configuration's data and first steps."""
