"""What is true: the rows, the rules about them, and the one writer that changes them."""
