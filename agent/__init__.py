"""mailvitals: the vital signs of your mail."""

__version__ = "0.1.0"
