"""The broker: vocabulary, pure control, durable log, and the application around them."""
