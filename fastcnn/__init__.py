"""fastcnn: a convolutional network engine in Cython and C, with a readable NumPy reference."""
