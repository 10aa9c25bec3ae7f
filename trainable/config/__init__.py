"""What one trial is, as frozen settings, and how they are read: YAML, then flags."""
