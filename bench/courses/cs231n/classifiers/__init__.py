"""The network of the assignment."""
