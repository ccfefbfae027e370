"""What must hold in every simulated run, and what is kept to look at when it did not."""
