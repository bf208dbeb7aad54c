"""Front ends: they make a Graph of a model that was written for something else. Each imports its framework when it is used."""
