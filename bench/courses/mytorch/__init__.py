"""In the style of CMU 11-785's homework: stride-1 layers with a loop over the output, strided ones that drop what they need not."""
