"""In the style of "Deep Learning from Scratch": layers on im2col, a network of them, its trainer."""
