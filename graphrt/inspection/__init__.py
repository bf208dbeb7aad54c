"""What looks into programs from the command line: explain, report, bisect, and kernels that run alone."""
