"""What a record says: rows and words as data, without rendering."""
