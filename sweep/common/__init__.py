"""What every part of a sweep uses: its errors, and keeping secrets out of texts."""
