"""The commands that look into programs: explain, report, bisect, and kernels that run alone."""
