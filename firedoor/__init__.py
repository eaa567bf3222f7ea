"""What all three programs share: the protocol, its pure cores and the runtime that drives them."""

__version__ = "0.2.0"
