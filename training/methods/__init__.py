"""What each stage of training teaches: one file per loss."""
