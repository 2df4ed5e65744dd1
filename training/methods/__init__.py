"""What can be trained: one file for each loss, each a `Method` for the one loop."""

METHODS = {  # how the `distill` stage teaches: a name, and its `DynamicsMethod`, made of a world and a `DistillConfig`
    "forcing": "drivedit.training.methods.forcing:DiffusionForcing",  # more of the recordings, nothing else
    "consistency": "drivedit.training.methods.consistency:Consistency",  # one step of the teacher, then its own average
    "phased": "drivedit.training.methods.phased:Phased",  # the same, to the end of each phase of the path
    "adversarial": "drivedit.training.methods.adversarial:Adversarial",  # and against heads on the teacher's layers
    "continuous": "drivedit.training.methods.continuous:ContinuousConsistency",  # a derivative in place of a step
    "matching": "drivedit.training.methods.matching:DistributionMatching",  # of distributions, on its own rollouts
    "energy": "drivedit.training.methods.energy:EnergyScore",  # the energy score, on its own rollouts
}
