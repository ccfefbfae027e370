"""The tidegate command."""
