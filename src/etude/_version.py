"""The version of étude, said once."""

__version__ = "0.4.0"
