"""What the trainer costs beside a loop written by hand."""
