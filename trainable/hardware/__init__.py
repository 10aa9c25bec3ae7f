"""The device that a trial runs on, its precision, and the memory that it keeps."""
