"""What tests make their worlds, drives and files with."""
