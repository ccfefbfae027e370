"""The vocabulary: frozen values, wire codecs and ports. Standard library only."""
