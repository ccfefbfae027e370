"""What a plan that knows the future would cost: ``bound`` (nothing can cost less), ``plan`` (made whole, to be run)."""
