"""One module per simulator, whose `DOMAIN` says by import paths what there is to it (`drivedit.config.domain`)."""

DEFAULT_WORLD = "carracing"  # the shipped world that is taken where none is named
