"""Reinforcement learning in a dream (or in any environment), resumable exactly.

The algorithms are Stable-Baselines3's. A run is a chain of segments, each a function of the run's seed, the steps done
so far and the checkpoint before it: at its beginning all worlds start new episodes and every random stream is seeded
anew. So a run that was interrupted, and goes on from its last checkpoint, ends with the very weights of one that was
not, whatever the environment can or cannot store. Ctrl-C and SIGTERM cut a segment short, after the present rollout:
what was learned is kept, and the run goes on, with other chance than one that was never stopped.
"""

from __future__ import annotations

import functools
import json
import logging
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np
import torch
from tqdm import tqdm

from drivedit.agents.domains import SIMULATOR
from drivedit.agents.dreams import DREAM, open_for
from drivedit.agents.drivers.policy import Policy, PolicySpec
from drivedit.agents.drivers.zips import actor_weights
from drivedit.agents.judging.scores import score
from drivedit.agents.learning.wrappers import (
    OffRoad,
    Patience,
    Pessimism,
    RandomLook,
    Remember,
    Repeat,
    ResetWith,
    UnitActions,
)
from drivedit.config.base import BaseConfig
from drivedit.utils import extra, generator, global_state_kept, read_archive, resolve_device, write_atomically
from drivedit.utils.interrupts import Interrupts

if TYPE_CHECKING:
    from stable_baselines3.common.base_class import BaseAlgorithm
    from stable_baselines3.common.vec_env import VecEnv

log = logging.getLogger(__name__)
CHECKPOINT, AGENT, CURVE, CONFIG = "checkpoint.pt", "agent.safetensors", "curve.jsonl", "config.json"
REPLAY = ("observations", "next_observations", "actions", "rewards", "dones", "timeouts")

_ON_POLICY = {"gamma": 0.99, "gae_lambda": 0.95, "batch_size": 128, "n_epochs": 5, "target_kl": 0.03}
_NETWORK = {"net_arch": [128, 128]}
_EYES = {"features_extractor_kwargs": {"features_dim": 128}}
# Settings of the algorithms that are not SB3's defaults.
PRESETS: dict[str, dict[str, Any]] = {
    "ppo": _ON_POLICY | {"policy_kwargs": _NETWORK | {"log_std_init": -2.0}},
    "recurrent_ppo": _ON_POLICY | {"policy_kwargs": _NETWORK | {"log_std_init": -1.0, "lstm_hidden_size": 128}},
    "sac": {"gamma": 0.99, "batch_size": 256, "learning_starts": 2000, "policy_kwargs": _NETWORK},
}


@dataclass
class TrainConfig(BaseConfig):
    """A training run.

    Attributes:
        algorithm: `ppo`, `recurrent_ppo` or `sac`.
        env: Id of the environment to learn in.
        world: World of the dream: shipped name, folder or hub:NAME/WORLD; None: the environment's own.
        obs_type: `pixels`, or `latent` (faster; such an agent sees frames through its world's encoder).
        eval_env: Id of the environment in which the curve is drawn; None: no curve. It chooses nothing.
        eval_episodes: Episodes of every point of the curve.
        num_envs: Worlds that are stepped together.
        steps: Steps in all, as the algorithm counts them: decisions of all worlds.
        segment: Steps between checkpoints; rounded up to whole rollouts.
        rollout: Steps of every world between two updates (PPO; SAC learns after every step).
        horizon: Steps after which an episode is cut off, with bootstrapping; short ones start from many scenes.
        gray: Whether frames are made grey.
        stack: Observations that the policy sees at once.
        repeat: Steps that every decision lasts.
        lr: Learning rate.
        cooldown: Share of the run at its end over which the learning rate falls to 0, in proportion.
        reward_scale: Factor on the rewards that the algorithm learns from.
        buffer: Transitions that SAC remembers; the checkpoint holds them.
        random_routes: Whether every episode of a dream has a new road; else those of the world's scenes.
        patience: Steps without a positive reward after which an episode ends; 0: any number.
        off_road: Steps in a row with all wheels off the road after which an episode ends; 0: any number.
        penalty: Reward taken away at confidence 0, see `Pessimism`.
        floor: Confidence below which an episode ends.
        cost: Reward taken away when it does.
        random_look: Whether frames are changed at random, see `RandomLook`.
        compile: Whether the dream's steps are compiled first (`DriveDiT-v0` on a CPU).
        seed: Seed of everything.
        device: Device of the networks.
    """

    algorithm: str = "ppo"
    env: str = DREAM
    world: str | None = None
    obs_type: str = "pixels"
    eval_env: str | None = SIMULATOR
    eval_episodes: int = 2
    num_envs: int = 16
    steps: int = 1_000_000
    segment: int = 50_000
    rollout: int = 128
    horizon: int = 400
    gray: bool = False
    stack: int = 2
    repeat: int = 1
    lr: float = 3e-4
    cooldown: float = 0.5
    reward_scale: float = 0.02
    buffer: int = 20_000
    random_routes: bool = False
    patience: int = 0
    off_road: int = 0
    penalty: float = 0.0
    floor: float = 0.0
    cost: float = 0.0
    random_look: bool = False
    compile: bool = False
    seed: int = 0
    device: str = "cpu"

    def __post_init__(self) -> None:
        if self.algorithm not in PRESETS:
            raise ValueError(f"algorithm must be one of {list(PRESETS)}, got {self.algorithm!r}")
        if self.obs_type not in ("pixels", "latent"):
            raise ValueError(f"obs_type must be 'pixels' or 'latent', got {self.obs_type!r}")
        if self.obs_type == "latent" and (self.gray or self.random_look):
            raise ValueError("gray and random_look change frames: they need obs_type='pixels'")
        for name in "eval_episodes num_envs steps segment rollout horizon stack repeat buffer".split():
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")


def open_env(config: TrainConfig) -> VecEnv:
    """Opens the environment that a run learns in, wrapped as its configuration says."""
    from stable_baselines3.common.vec_env import VecMonitor

    from drivedit.agents.learning.sb3 import SB3VecEnv, ScaledReward, open_vector

    compiled = {"compile": True} if config.compile else {}
    env = UnitActions(open_vector(config.env, config.num_envs, config.horizon, **_settings(config), **compiled))
    if config.random_routes:
        env = ResetWith(env, {"route": "random"})
    if config.patience:
        env = Patience(env, config.patience)
    if config.off_road:
        env = OffRoad(env, config.off_road)
    if config.penalty or config.floor or config.cost:
        env = Pessimism(env, config.penalty, config.floor, config.cost)
    if config.random_look:
        env = RandomLook(env)
    if config.repeat > 1:
        env = Repeat(env, config.repeat)
    env = Remember(env, config.gray, config.stack)
    return ScaledReward(VecMonitor(SB3VecEnv(env)), config.reward_scale)


def train(config: TrainConfig, out: str | Path = "runs/agent", progress: bool = True) -> Policy:
    """Trains an agent; an interrupted run goes on from its last checkpoint, with the same command.

    Args:
        config: The run.
        out: Folder of the run: `config.json`, `checkpoint.pt`, `agent.safetensors` (the agent of the last checkpoint),
            `agents/STEPS.safetensors` (that of every checkpoint), `curve.jsonl` (one line each) and the events of
            tensorboard.
        progress: Whether to show a progress bar.

    Returns:
        The agent after the last step.

    Raises:
        ValueError: The folder holds a run of another configuration (all but `steps` has to agree).
        RuntimeError: The checkpoint is damaged.
        KeyboardInterrupt, SystemExit: After Ctrl-C and SIGTERM, with a checkpoint of what was learned.
    """
    with extra("agents", "training agents"):
        import stable_baselines3  # noqa: F401
        import torch.utils.tensorboard  # noqa: F401  (the logger's)

    out = Path(out)
    _claim(config, out)
    with global_state_kept(resolve_device(config.device)):  # Stable-Baselines3 seeds and draws from all of it
        return _learn(config, out, progress)


def _learn(config: TrainConfig, out: Path, progress: bool) -> Policy:
    from stable_baselines3.common.logger import configure

    env = open_env(config)
    model = _model(config, env)
    model.lr_schedule = lambda _: config.lr * warmth(model.num_timesteps / config.steps, config.cooldown)
    _load(out / CHECKPOINT, model)
    model.set_logger(configure(str(out), ["tensorboard"]))
    rollout = config.num_envs * (1 if config.algorithm == "sac" else config.rollout)
    segment = math.ceil(config.segment / rollout) * rollout
    policy = export(model, config)
    with tqdm(total=config.steps, initial=model.num_timesteps, desc="steps", unit=" step", disable=not progress) as bar:
        while model.num_timesteps < config.steps:
            _seed(model, env, config.seed)
            steps = min(segment, config.steps - model.num_timesteps)
            with Interrupts() as interrupts:
                model.learn(steps, _watch(bar, interrupts), reset_num_timesteps=False, log_interval=1)
                policy = export(model, config)
                _save(out / CHECKPOINT, model)
                policy.save(out / AGENT)
                if interrupts.received is not None:
                    bar.write(f"kept step {model.num_timesteps} in {out}; the same command goes on from there")
            policy.save(out / "agents" / f"{model.num_timesteps}.safetensors")
            if config.eval_env is not None:
                bar.write(
                    f"step {model.num_timesteps}: {config.eval_episodes} episodes in {config.eval_env} for the curve"
                )
            _draw(config, policy, model, out / CURVE)
        policy.save(out / AGENT)  # a run that is done already: its file may be of an older format
        bar.write(f"{'agent':<18} {out / AGENT}")
    env.close()
    return policy


def warmth(done: float, cooldown: float) -> float:
    """The share of the learning rate that is left at a share of the run."""
    return min((1.0 - done) / cooldown, 1.0) if cooldown and done < 1.0 else float(done < 1.0)


def export(model: BaseAlgorithm, config: TrainConfig) -> Policy:
    """The agent of a model, as it drives: deterministic, without Stable-Baselines3."""
    space, actions, fingerprint = _opened(config.env, tuple(_settings(config).items()))
    squash = config.algorithm == "sac"
    activation = "relu" if squash else "tanh"  # SB3's defaults
    folder = config.world is not None and Path(config.world).is_dir()
    world = str(Path(config.world).resolve()) if folder and config.world else config.world
    dream = {"fingerprint": fingerprint, "world": world} if config.obs_type == "latent" else {}
    spec = PolicySpec(
        list(space.shape or ()), "pixels" if config.obs_type == "pixels" else "latent", config.gray, config.stack,
        activation=activation, squash=squash, repeat=config.repeat,
        low=actions.low.tolist(), high=actions.high.tolist(), **dream,
    )  # fmt: skip
    return Policy(spec, actor_weights(model.policy.state_dict()))


@functools.lru_cache(maxsize=8)
def _opened(env: str, settings: tuple[tuple[str, Any], ...]) -> tuple[gym.Space, gym.spaces.Box, str]:
    """The spaces of an environment before it is wrapped, and its world's fingerprint if it dreams."""
    opened = gym.make(env, **dict(settings))
    opened.close()
    fingerprint = getattr(getattr(opened.unwrapped, "world", None), "fingerprint", "")
    return opened.observation_space, opened.action_space, fingerprint  # type: ignore[return-value]


def _settings(config: TrainConfig) -> dict[str, Any]:
    """Settings of the environment to learn in."""
    world = {} if config.world is None else {"world": config.world}
    return world | ({"obs_type": "latent"} if config.obs_type == "latent" else {})


def _model(config: TrainConfig, env: VecEnv) -> BaseAlgorithm:
    """The algorithm, with fresh networks."""
    from stable_baselines3 import PPO, SAC
    from stable_baselines3.common.utils import set_random_seed

    set_random_seed(config.seed)
    settings = dict(PRESETS[config.algorithm], learning_rate=config.lr, seed=config.seed, device=config.device)
    network = dict(settings.pop("policy_kwargs"))
    eyes = config.obs_type == "pixels"
    kind = "CnnPolicy" if eyes else "MlpPolicy"
    network |= _EYES if eyes else {}
    if config.algorithm == "sac":
        per_step = {"train_freq": 1, "gradient_steps": max(config.num_envs // 4, 1)}
        return SAC(kind, env, buffer_size=config.buffer, policy_kwargs=network, **per_step, **settings)
    settings["batch_size"] = min(settings["batch_size"], config.rollout * config.num_envs)
    if config.algorithm == "ppo":
        return PPO(kind, env, n_steps=config.rollout, policy_kwargs=network, **settings)
    with extra("agents", "recurrent_ppo"):
        from sb3_contrib import RecurrentPPO

    kind = kind.replace("Policy", "LstmPolicy")
    return RecurrentPPO(kind, env, n_steps=config.rollout, policy_kwargs=network, **settings)


def _seed(model: BaseAlgorithm, env: VecEnv, seed: int) -> None:
    """Begins a segment: every random stream, and new episodes in all worlds, from the seed and the steps so far."""
    fresh = int(torch.randint(2**31 - 10_000, (), generator=generator(seed, "agent", model.num_timesteps)))
    model.set_random_seed(fresh)
    env.seed(fresh)
    model._last_obs = None
    model.ep_info_buffer = None


def _watch(bar: tqdm, interrupts: Interrupts) -> Any:
    """SB3's callback that moves a progress bar, and ends a segment after the rollout in which a signal came."""
    from stable_baselines3.common.callbacks import BaseCallback

    class Watch(BaseCallback):
        def _on_rollout_start(self) -> None:
            self.learned, self.over = self.model.num_timesteps, interrupts.received is not None

        def _on_step(self) -> bool:
            if self.over:  # nothing is learned from this step any more
                self.model.num_timesteps = self.learned
                return False
            bar.update(self.training_env.num_envs)
            episodes = self.model.ep_info_buffer
            if episodes:
                bar.set_postfix(episode=f"{np.mean([e['r'] for e in episodes]):.1f}", refresh=False)
            return True

    return Watch()


def _draw(config: TrainConfig, policy: Policy, model: BaseAlgorithm, path: Path) -> None:
    """Adds a point to the curve: the agent in the environment that judges it, always on the same episodes."""
    point: dict[str, Any] = {"steps": model.num_timesteps}
    if model.ep_info_buffer:
        point["learned_in"] = float(np.mean([e["r"] for e in model.ep_info_buffer]))
    if config.eval_env is not None:
        own = config.eval_env == config.env
        env = gym.make(config.env, **_settings(config)) if own else open_for(policy, config.eval_env)
        judged = score(env, policy, config.eval_episodes, seed=2_000_000, progress=False)
        env.close()
        point["judged"] = judged.summary()["mean"]
        model.logger.record("judge/return", point["judged"])
        model.logger.dump(model.num_timesteps)
    old = path.read_text().splitlines() if path.is_file() else []
    kept = [line for line in old if json.loads(line)["steps"] < model.num_timesteps]
    text = "".join(f"{line}\n" for line in [*kept, json.dumps(point)])
    write_atomically(path, lambda file: file.write(text.encode()))


# -- checkpoints ---------------------------------------------------------------------------------------------------


def _claim(config: TrainConfig, out: Path) -> None:
    """Writes the configuration into the folder of the run, or finds the same one there."""
    path = out / CONFIG
    if path.is_file():
        stored = TrainConfig.from_json(path)
        there, here = replace(stored, steps=config.steps).to_dict(), config.to_dict()
        other = [f"{name} {there[name]!r} there, {here[name]!r} here" for name in here if there[name] != here[name]]
        if other:
            raise ValueError(f"{out} holds a run of another configuration: {'; '.join(other)}; choose another folder")
    write_atomically(path, lambda file: file.write((config.to_json() + "\n").encode()))


def _variables(model: BaseAlgorithm) -> dict[str, torch.Tensor]:
    """What the algorithm learns beside its networks (SAC: the temperature)."""
    names = model._get_torch_save_params()[1]
    return {name: getattr(model, name) for name in names if isinstance(getattr(model, name, None), torch.Tensor)}


def _save(path: Path, model: BaseAlgorithm) -> None:
    """Writes all that the next segment depends on, whole or not at all."""
    state: dict[str, Any] = {
        "networks": model.get_parameters(),
        "variables": {name: value.detach() for name, value in _variables(model).items()},
        "counts": {"num_timesteps": model.num_timesteps, "_n_updates": model._n_updates},  # type: ignore[attr-defined]
    }
    replay = getattr(model, "replay_buffer", None)
    if replay is not None:
        filled = slice(None if replay.full else replay.pos)
        arrays = {name: torch.from_numpy(getattr(replay, name)[filled]) for name in REPLAY}
        state["replay"] = {"arrays": arrays, "pos": replay.pos, "full": replay.full}
    write_atomically(path, lambda file: torch.save(state, file))


def _load(path: Path, model: BaseAlgorithm) -> None:
    """Reads a checkpoint, if there is one."""
    if not path.is_file():
        return
    try:
        state = read_archive(path, model.device)
        model.set_parameters(state["networks"], exact_match=True, device=model.device)
        for name, value in state["variables"].items():
            getattr(model, name).data.copy_(value)
        for name, value in state["counts"].items():
            setattr(model, name, value)
        if "replay" in state:
            replay: Any = model.replay_buffer  # type: ignore[attr-defined]
            for name, values in state["replay"]["arrays"].items():
                getattr(replay, name)[: len(values)] = values.cpu().numpy()
            replay.pos, replay.full = state["replay"]["pos"], state["replay"]["full"]
    except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise RuntimeError(f"the checkpoint {path} is damaged ({error}); delete it to start anew") from error
    log.info("resuming %s at step %d", path, model.num_timesteps)
