"""What one sweep is: the space and all settings."""
