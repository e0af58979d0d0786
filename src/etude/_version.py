"""The version of étude, said once."""

__version__ = "0.5.0"
