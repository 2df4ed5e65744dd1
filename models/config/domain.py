"""Domains: the simulators that worlds are learned from and judged beside, by the names of their parts.

A domain is a `DomainConfig` named `DOMAIN` in a module of `drivedit.config.domains`, or in any installed package that
announces it as an entry point of the group `drivedit.domains`. Nobody else knows a domain by name.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from pkgutil import iter_modules
from types import MappingProxyType

from drivedit.config.base import BaseConfig
from drivedit.config.spec import WorldSpec, check_names

GROUP = "drivedit.domains"  # of entry points


@dataclass
class DomainConfig(BaseConfig):
    """A simulator, and who drives and judges in it; parts are import paths `module:name`.

    Attributes:
        spec: What its worlds are about; `spec.domain` is the domain's name.
        env_id: Gymnasium id of the simulator behind the spaces of its worlds, which `drivedit_env` registers.
        simulator: Its class, a `drivedit.utils.Simulator`.
        drivers: Draws a driver and the reset options of its episode from a `numpy.random.Generator`, for recordings.
        recording_starts: Draws the reset options of an episode that an agent drives for a recording; empty: none.
        judging_starts: Reset options that are drawn, evenly in these ranges, where policies are judged.
        judging_attributes: Attributes of the scene where policies are judged; those left out are drawn from the seed.
        steady: Telemetry, with its ranges, of a moment that a dream can begin in; what is not known hinders nothing.
        policies: A dictionary of policies that see the observation alone: by name, made from a seed.
        on_road: Telemetry that says what share of the car is on the road; empty: none does.
        run_up: Name of the policy that drives from a start to the moment where a dream takes over.
        probes: What the evaluation asks of the simulator beside recorded drives, a `drivedit.utils.Probes`; empty: a
            world is judged by recorded drives alone.
        landmarks: What memory is judged by: a `drivedit.data.landmarks.Landmarks`; empty: none.
        public: Environments as they are scored in public, class by Gymnasium id; their episodes end by themselves.
        solved: Mean return of 100 episodes of the public environment from which on it counts as solved.
        held_out_from: The first seed that is for judging alone.

    Raises:
        ValueError: A part has another form, or a start or a telemetry value is named that the spec does not have.
    """

    spec: WorldSpec
    env_id: str
    simulator: str
    drivers: str
    recording_starts: str = ""
    judging_starts: dict[str, tuple[float, float]] = field(default_factory=dict)
    judging_attributes: dict[str, str] = field(default_factory=dict)
    steady: dict[str, tuple[float, float]] = field(default_factory=dict)
    policies: str = ""
    on_road: str = ""
    run_up: str = ""
    probes: str = ""
    landmarks: str = ""
    public: dict[str, str] = field(default_factory=dict)
    solved: float | None = None
    held_out_from: int = 1_000_000

    def __post_init__(self) -> None:
        check_names("ids of a domain", [self.env_id, *self.public])
        if not self.spec.domain:
            raise ValueError("the spec of a domain has a name, spec.domain; got none")
        parts = ("simulator", "drivers", "recording_starts", "policies", "probes", "landmarks")
        for name, path in {**{name: getattr(self, name) for name in parts}, **self.public}.items():
            if (path or name in parts[:2]) and not all(path.partition(":")):
                raise ValueError(f'{name} of the domain {self.spec.domain} is "module:name", got {path!r}')
        allowed = self.spec.attributes
        wrong = {name: value for name, value in self.judging_attributes.items() if value not in allowed.get(name, ())}
        if wrong:
            raise ValueError(f"judging_attributes are some of {allowed}, got {wrong}")
        unknown = {*self.steady, *filter(None, [self.on_road])} - set(self.spec.names("telemetry"))
        if unknown:
            raise ValueError(
                f"steady and on_road name {sorted(unknown)}; the telemetry is {self.spec.names('telemetry')}"
            )


@cache
def all_domains() -> MappingProxyType[str, DomainConfig]:
    """All domains by name: those of this package, then those of others.

    Raises:
        ImportError: What is announced cannot be imported.
        ValueError: Two have one name or one id, or what is announced is no domain.
    """
    package = import_module("drivedit.config.domains")
    paths = [f"{package.__name__}.{found.name}:DOMAIN" for found in iter_modules(package.__path__)]
    paths += [point.value for point in sorted(entry_points(group=GROUP))]
    found = [_load(path) for path in paths]
    check_names("domains", [domain.spec.domain for domain in found])
    check_names("ids of the domains", [name for domain in found for name in (domain.env_id, *domain.public)])
    return MappingProxyType({domain.spec.domain: domain for domain in found})


def _load(path: str) -> DomainConfig:
    """The domain of an import path."""
    module, _, name = path.partition(":")
    try:
        domain = getattr(import_module(module), name, None)
    except ImportError as error:
        raise ImportError(f"{path} is announced as a domain and cannot be imported: {error}") from error
    if not isinstance(domain, DomainConfig):
        raise ValueError(f"{path} is announced as a domain and must be a DomainConfig, got {domain!r}")
    return domain


def find_domain(name: str) -> DomainConfig:
    """A domain by its name.

    Raises:
        ValueError: There is none; those that there are are named.
    """
    if name not in all_domains():
        raise ValueError(f"there is no domain {name!r}; there are {', '.join(all_domains())}")
    return all_domains()[name]


def domain_of(env_id: str) -> DomainConfig | None:
    """The domain whose simulator, or public environment, has a Gymnasium id; None: no domain's has.

    Args:
        env_id: The id, as `gymnasium.make` takes it or as the attribute `env` of a recording says it.
    """
    name = env_id.rpartition(":")[2]
    return next((domain for domain in all_domains().values() if name in (domain.env_id, *domain.public)), None)
