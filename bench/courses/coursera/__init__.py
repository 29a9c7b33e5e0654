"""In the style of the Coursera notebook: NHWC, a loop over images, rows, columns and channels (notebook.py), and the same with im2col (columns.py)."""
