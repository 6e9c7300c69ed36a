"""All tests of this folder run with oneDNN's scratch memory between walls."""

from tests.guarded_memory import walls  # noqa: F401
