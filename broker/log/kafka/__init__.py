"""The log in a Kafka cluster: topics, leadership, transactions, and what reads them back."""
