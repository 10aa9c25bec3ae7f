"""The sweep's events as MLflow runs."""
