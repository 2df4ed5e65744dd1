"""Small helpers: tensors, modules, mathematics, geometry, randomness, devices, files."""

from typing import TYPE_CHECKING

from drivedit.utils.lazy import lazily

if TYPE_CHECKING:
    from drivedit.utils.archives import Undrawn, check_tensors, read_archive, read_tensors, write_tensors
    from drivedit.utils.checks import real_numbers, whole_number
    from drivedit.utils.device import fast_dtype, resolve_device
    from drivedit.utils.envs import get_env_var
    from drivedit.utils.extras import extra
    from drivedit.utils.files import code_fingerprint, fingerprint, locked, package_of, work_folder, write_atomically
    from drivedit.utils.folders import check_replaceable, find_files, replaced_folder, restore_folder
    from drivedit.utils.forward_context import ForwardContext, get_forward_context, set_forward_context
    from drivedit.utils.logger import init_logger
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
    from drivedit.utils.origin import from_origin, origin_of
    from drivedit.utils.pictures import enlarged, rgb, shown
    from drivedit.utils.processes import begin_worker, one_thread
    from drivedit.utils.random import generator, global_state_kept, noise, seeded, truncate
    from drivedit.utils.route import UNBOUNDED, Route, advance_pose, motion_between
    from drivedit.utils.simulator import Driver, Goal, OthersProbes, Probes, Recordable, Simulator, Truth, load_object
    from drivedit.utils.streams import check_seed, restored, stream
    from drivedit.utils.tensor_utils import (
        chunk_tensor,
        move_to_device,
        normalize_tensor,
        pad_sequence,
        safe_cat,
        safe_stack,
        tensor_memory_usage,
    )
else:
    __getattr__, __dir__ = lazily(__name__)

__all__ = [
    "UNBOUNDED",
    "Driver",
    "ForwardContext",
    "Goal",
    "OthersProbes",
    "Probes",
    "Recordable",
    "Route",
    "Simulator",
    "Truth",
    "Undrawn",
    "advance_pose",
    "begin_worker",
    "check_replaceable",
    "check_seed",
    "check_tensors",
    "chunk_tensor",
    "clip_gradients",
    "code_fingerprint",
    "cosine_similarity_matrix",
    "count_parameters",
    "enlarged",
    "exponential_moving_average",
    "extra",
    "fast_dtype",
    "find_files",
    "fingerprint",
    "finite_difference_gradient",
    "freeze_parameters",
    "from_origin",
    "gaussian_kernel",
    "generator",
    "get_device",
    "get_env_var",
    "get_forward_context",
    "get_gradient_norm",
    "get_model_size_mb",
    "global_state_kept",
    "gumbel_noise",
    "gumbel_softmax",
    "init_logger",
    "initialize_weights",
    "laplacian",
    "load_checkpoint",
    "load_object",
    "locked",
    "motion_between",
    "move_to_device",
    "noise",
    "normalize_tensor",
    "one_thread",
    "origin_of",
    "package_of",
    "pad_sequence",
    "pairwise_distance_matrix",
    "read_archive",
    "read_tensors",
    "real_numbers",
    "replaced_folder",
    "resolve_device",
    "rgb",
    "shown",
    "restore_folder",
    "restored",
    "safe_cat",
    "safe_stack",
    "save_checkpoint",
    "seeded",
    "set_forward_context",
    "set_seed",
    "stable_softmax",
    "stream",
    "tensor_memory_usage",
    "truncate",
    "whole_number",
    "work_folder",
    "write_atomically",
    "write_tensors",
]
