"""What every part of a trial uses: errors, atomic files, places, how a command ends."""
