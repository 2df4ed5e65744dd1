"""Small helpers: tensors, modules, mathematics, geometry, randomness, devices, files."""

from drivedit.utils.device import resolve_device
from drivedit.utils.files import write_atomically
from drivedit.utils.math_utils import (
    cosine_similarity_matrix,
    finite_difference_gradient,
    gaussian_kernel,
    gumbel_noise,
    gumbel_softmax,
    laplacian,
    pairwise_distance_matrix,
    stable_softmax,
)
from drivedit.utils.model_utils import (
    clip_gradients,
    count_parameters,
    exponential_moving_average,
    freeze_parameters,
    get_device,
    get_gradient_norm,
    get_model_size_mb,
    initialize_weights,
    load_checkpoint,
    save_checkpoint,
    set_seed,
)
from drivedit.utils.random import generator, noise, truncate
from drivedit.utils.route import UNBOUNDED, Route, RouteCoder, advance_pose, motion_between, route_code
from drivedit.utils.tensor_utils import (
    chunk_tensor,
    move_to_device,
    normalize_tensor,
    pad_sequence,
    safe_cat,
    safe_stack,
    tensor_memory_usage,
)

__all__ = [
    "UNBOUNDED",
    "Route",
    "RouteCoder",
    "advance_pose",
    "chunk_tensor",
    "clip_gradients",
    "cosine_similarity_matrix",
    "count_parameters",
    "exponential_moving_average",
    "finite_difference_gradient",
    "freeze_parameters",
    "gaussian_kernel",
    "generator",
    "get_device",
    "get_gradient_norm",
    "get_model_size_mb",
    "gumbel_noise",
    "gumbel_softmax",
    "initialize_weights",
    "laplacian",
    "load_checkpoint",
    "motion_between",
    "move_to_device",
    "noise",
    "normalize_tensor",
    "pad_sequence",
    "pairwise_distance_matrix",
    "resolve_device",
    "route_code",
    "safe_cat",
    "safe_stack",
    "save_checkpoint",
    "set_seed",
    "stable_softmax",
    "tensor_memory_usage",
    "truncate",
    "write_atomically",
]
