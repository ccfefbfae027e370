"""Faults of a real Kafka, and of the brokers that have their log in it."""
