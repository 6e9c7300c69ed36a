"""The programs that train and run the networks of this package, one folder each, with what each of them needs."""
