"""Recordings from elsewhere and to elsewhere: films, pictures, Minari."""
