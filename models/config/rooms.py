"""What a room needs of another and does not import: import paths, which stand here and in `DomainConfig` alone."""

LOAD_AGENT = "drivedit.agents.load:load_agent"  # a policy by its name
OPEN_DRIVES = "drivedit.data.clips:Drives"  # recordings as memory-mapped arrays
IMPORT_MINARI = "drivedit.data.exchange.minari:import_minari"  # a Minari dataset as a recording
MODELS = "drivedit.models"  # whose code a judged drive comes from
BLIND = "drivedit.data.blind_policies"  # policies that domains share, whose code judged drives come from too
SHIPS = "drivedit_env"  # the package whose folder `worlds` holds the shipped ones; it registers the environments
