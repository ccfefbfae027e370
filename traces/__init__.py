"""Request traces: readers, generators, fitted profiles."""
