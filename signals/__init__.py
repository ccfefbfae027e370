"""From measurements to what policies may know."""
