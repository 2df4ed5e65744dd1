"""The published interface of the set flow: data and training modules for Lightning, and their Hydra commands.

Networks and mathematics are those of `drivedit.models.sets`, metrics those of `drivedit.evaluation.metrics.sets`; both
train by `drivedit.training.methods.sets` in the one loop as well. What is here needs the extra `sets`.
"""
