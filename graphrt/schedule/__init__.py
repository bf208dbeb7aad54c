"""Schedule: which nodes run together, in what order, in which bytes, and what each kernel computes."""
