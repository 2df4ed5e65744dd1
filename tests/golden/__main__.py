"""Writes the golden file anew: `python -m tests.golden`. Only after a change that is meant to change the dream."""

import json

from .dream import GOLDEN, NAMES, dream, key

if __name__ == "__main__":
    stored = json.loads(GOLDEN.read_text()) if GOLDEN.is_file() else {}
    dreams = {name: dream(name) for name in NAMES}
    figures = {name: values for name, (values, _) in dreams.items()}
    if stored.get("figures") != figures:
        stored = {"figures": figures, "hashes": {}}
    stored["hashes"][key()] = {name: digest for name, (_, digest) in dreams.items()}
    GOLDEN.write_text(json.dumps(stored) + "\n")
    print(key(), stored["hashes"][key()])
