"""What was measured, judged: compared with a baseline or a base, held against limits, approved."""
