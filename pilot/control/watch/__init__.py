"""What watches a job and the pilot itself: checks, limits, deadlines, and the lanes that they may hang in."""
