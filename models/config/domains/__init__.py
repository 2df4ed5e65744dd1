"""What is known of every domain, one module each: `SPEC`, and `ENV_ID` and `SIMULATOR` of what it is recorded in."""
