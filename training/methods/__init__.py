"""What can be trained: one file for each loss, each a `Method` for the one loop."""
